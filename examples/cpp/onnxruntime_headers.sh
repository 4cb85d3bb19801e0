#!/usr/bin/env bash
# Unpacks the headers of ONNX Runtime into a folder: Debian 13's package libonnxruntime-dev, on any Debian, installing
# nothing and changing nothing of the system. On Debian 13 itself 'apt install libonnxruntime-dev' is all there is to do.
#
#     onnxruntime_headers.sh FOLDER      afterwards they are in FOLDER/usr/include/onnxruntime
set -euo pipefail
"$(dirname "$0")/../../tools/unpack_debian.sh" "${1:?usage: onnxruntime_headers.sh FOLDER}" libonnxruntime-dev
