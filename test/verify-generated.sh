#!/usr/bin/env bash
# Generates everything anew in a copy of the tree and compares: what is committed has to be what its sources make. The
# tree itself stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read --warning=no-failed-read |
  tar -x -C "$copy"
cd "$copy"
git init --quiet
git add --all
go generate ./...
git add --all --intent-to-add # files that are new
if ! git --no-pager diff --stat --exit-code; then
  echo 'verify-generated: these files are not what their sources make; run make generate and commit the result' >&2
  exit 1
fi
