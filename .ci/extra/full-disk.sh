#!/usr/bin/env bash
# A chunkserver whose disk runs full: the upload ends with exit code 7 and a line that says so,
# nothing of it is visible, and the cluster serves on; after a purge there is room again.
#
# Needs root and loop devices: a small file system of its own is the only honest full disk.

set -euo pipefail

((EUID == 0)) || { echo 'not root: no file system can be mounted'; exit 77; }
command -v mkfs.ext4 >/dev/null || { echo 'mkfs.ext4 is not installed'; exit 77; }

work=$(mktemp -d)
pids=()
cleanup() {
    local pid
    for pid in "${pids[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    umount "$work/disk" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

cargo build --quiet --release -p sarsen-client --bin sarsen
sarsen="${CARGO_TARGET_DIR:-target}/release/sarsen"
export XDG_RUNTIME_DIR="$work"

truncate -s 48M "$work/disk.img"
mkfs.ext4 -q -O ^has_journal -m 0 "$work/disk.img"
mkdir "$work/disk"
mount -o loop "$work/disk.img" "$work/disk" || { echo 'no loop device can be mounted'; exit 77; }

# Starts a daemon in the background and waits for its ready line.
start() {
    local name=$1
    shift
    "$sarsen" "$@" --set chunk_size=1MiB --set gc_interval=200ms --set heartbeat=100ms \
        >"$work/$name.ready" 2>"$work/$name.log" &
    pids+=($!)
    for _ in $(seq 300); do
        grep -q '^ready ' "$work/$name.ready" && return
        kill -0 "${pids[-1]}" || { cat "$work/$name.log"; return 1; }
        sleep 0.1
    done
    echo "$name is not ready"
    return 1
}

start master daemon:sarsen-master --dir "$work/master" --listen 127.0.0.1:0 --http 127.0.0.1:0
control=$(sed -E 's/.*control=([^ ]+).*/\1/' "$work/master.ready")
export SARSEN_MASTER=$control
start chunkd daemon:chunkd --master "$control" --dir "$work/disk/chunks"

head -c $((20 << 20)) /dev/urandom >"$work/fits"
head -c $((60 << 20)) /dev/urandom >"$work/too-big"
"$sarsen" put --replicas 1 "$work/fits" /fits

status=0
"$sarsen" --timeout 5s put --replicas 1 "$work/too-big" /too-big 2>"$work/stderr" || status=$?
cat "$work/stderr"
[[ $status == 7 ]] || { echo "exit code $status, not 7"; exit 1; }
grep -q '^sarsen: put /too-big: ' "$work/stderr" || { echo 'the line does not say it'; exit 1; }
status=0
"$sarsen" stat /too-big 2>/dev/null || status=$?
[[ $status == 3 ]] || { echo 'something half made is visible'; exit 1; }

"$sarsen" get /fits - | cmp - "$work/fits"
"$sarsen" fsck
"$sarsen" rm --purge /fits
# What the failed upload left and what was purged are both asked back, and the room is told.
for attempt in $(seq 200); do
    free=$("$sarsen" --json df | python3 -c 'import json, sys; print(json.load(sys.stdin)["free"])')
    ((free > 38 << 20)) && break
    ((attempt < 200)) || { echo "only $free bytes came back"; exit 1; }
    sleep 0.1
done
"$sarsen" put --replicas 1 "$work/fits" /again
"$sarsen" get /again - | cmp - "$work/fits"
echo 'a full disk is an error, and no more'
