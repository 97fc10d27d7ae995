#!/usr/bin/env bash
# Where io_uring is forbidden, as in many containers: the demo passes all the same, chunkd says
# which I/O it chose, and `--io uring` is refused with a line that says what to do.
#
# Needs root: the sysctl that forbids it holds for the whole machine, and is put back at the end.

set -euo pipefail

switch=/proc/sys/kernel/io_uring_disabled
((EUID == 0)) || { echo 'not root: io_uring can not be forbidden'; exit 77; }
[[ -w $switch ]] || { echo "this kernel has no $switch"; exit 77; }
before=$(cat "$switch")
echo 2 >"$switch" 2>/dev/null || { echo 'this kernel does not let io_uring be forbidden'; exit 77; }

work=$(mktemp -d)
trap 'echo "$before" >"$switch"; rm -rf "$work"' EXIT

cargo build --quiet --release -p sarsen-client --bin sarsen
sarsen=$PWD/${CARGO_TARGET_DIR:-target}/release/sarsen
TMPDIR=$work XDG_RUNTIME_DIR=$work timeout --kill-after=30 300 "$sarsen" demo

status=0
"$sarsen" daemon:chunkd --master 127.0.0.1:1 --dir "$work/chunks" --io uring \
    >"$work/stdout" 2>"$work/stderr" || status=$?
cat "$work/stderr"
[[ $status == 1 ]] || { echo "exit code $status, not 1"; exit 1; }
grep -q '^chunkd: .*io_uring' "$work/stderr" || { echo 'the line does not say it'; exit 1; }
grep -q -e '--io epoll' "$work/stderr" || { echo 'nothing says what to do'; exit 1; }
[[ ! -s $work/stdout ]] || { echo 'it said something on stdout'; exit 1; }
echo 'without io_uring all goes on'
