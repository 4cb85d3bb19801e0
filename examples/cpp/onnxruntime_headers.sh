#!/usr/bin/env bash
# Unpack the headers of ONNX Runtime (Debian 13 package libonnxruntime-dev) into a folder on any Debian, without
# installing the package or changing the system. On Debian 13, use 'apt install libonnxruntime-dev' instead.
#
#     onnxruntime_headers.sh FOLDER      writes FOLDER/usr/include/onnxruntime
set -euo pipefail
"$(dirname "$0")/../../tools/unpack_debian.sh" "${1:?usage: onnxruntime_headers.sh FOLDER}" libonnxruntime-dev
