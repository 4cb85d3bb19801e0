#!/usr/bin/env bash
# Unpack Debian 13 packages into a folder on any Debian, without installing them or changing the system.
#
#     unpack_debian.sh FOLDER PACKAGE...      writes FOLDER/usr/...
set -euo pipefail
folder=$(realpath -m "${1:?usage: unpack_debian.sh FOLDER PACKAGE...}")
shift
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
(cd "$work" && apt-get "${options[@]}" download "$@")
mkdir -p "$folder"
for package in "$work"/*.deb; do
  dpkg-deb -x "$package" "$folder"
done
