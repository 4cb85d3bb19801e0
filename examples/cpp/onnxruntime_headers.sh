#!/usr/bin/env bash
# Unpacks the headers of ONNX Runtime into a folder: Debian 13's package libonnxruntime-dev, on any Debian, installing
# nothing and changing nothing of the system. On Debian 13 itself 'apt install libonnxruntime-dev' is all there is to do.
#
#     onnxruntime_headers.sh FOLDER      afterwards they are in FOLDER/usr/include/onnxruntime
set -euo pipefail
folder=$(realpath -m "${1:?usage: onnxruntime_headers.sh FOLDER}")
sources=${APT_SOURCES:-/etc/apt/sources.list.d/debian.sources}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
awk 'BEGIN { RS = "" } NR == 1' "$sources" | sed -E 's/^Suites:.*/Suites: trixie/' > "$work/trixie.sources"
options=(
  -qq -o Acquire::http::Timeout=20 -o Acquire::Retries=1 -o APT::Sandbox::User="$(id -un)" -o Dir::Etc::sourcelist="$work/trixie.sources" -o Dir::Etc::sourceparts=-
  -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache"
)
apt-get "${options[@]}" update
(cd "$work" && apt-get "${options[@]}" download libonnxruntime-dev)
mkdir -p "$folder"
dpkg-deb -x "$work"/libonnxruntime-dev_*.deb "$folder"
