#!/usr/bin/env bash
# A chunk that is being appended to while the network falls apart: its primary cut off from the
# master only, from its successor only, in one direction only, and the master cut off from all.
#
# Each machine is a network namespace of its own, joined by a bridge in another one. A direction is
# cut by telling the sender a hardware address that nobody has: frames go out and come nowhere, no
# error tells. Needs root; nothing outside of these namespaces is touched.
#
# What has to hold each time: what may go on goes on within a few times `suspect_after`; what can't
# ends with the right exit code; afterwards everything heals without help, every record that was
# acknowledged is there once at the offset that was told, and nothing else is.

set -euo pipefail

((EUID == 0)) || { echo 'not root: no network namespace can be made'; exit 77; }
command -v ip >/dev/null || { echo 'ip (iproute2) is not installed'; exit 77; }

work=$(mktemp -d)
tag=sarsen$$
pids=()
machines=(hub m s1 s2 s3 c)
declare -A last_byte=([m]=1 [s1]=11 [s2]=12 [s3]=13 [c]=20)

cleanup() {
    local pid machine
    for pid in "${pids[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    for machine in "${machines[@]}"; do
        ip netns del "$tag-$machine" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT

address() { echo "10.77.0.${last_byte[$1]}"; }
on() {
    local machine=$1
    shift
    ip netns exec "$tag-$machine" "$@"
}

ip netns add "$tag-hub" 2>/dev/null || { echo 'no network namespace can be made here'; exit 77; }
ip -n "$tag-hub" link add bridge type bridge || { echo 'no bridge can be made here'; exit 77; }
ip -n "$tag-hub" link set bridge up
for machine in "${machines[@]:1}"; do
    ip netns add "$tag-$machine"
    ip -n "$tag-$machine" link set lo up
    ip -n "$tag-hub" link add "port-$machine" type veth peer name net netns "$tag-$machine"
    ip -n "$tag-hub" link set "port-$machine" master bridge up
    ip -n "$tag-$machine" addr add "$(address "$machine")/24" dev net
    ip -n "$tag-$machine" link set net up
done

# cut FROM TO: nothing that FROM sends reaches TO. mend FROM TO: it does again.
cut() { ip -n "$tag-$1" neigh replace "$(address "$2")" lladdr 02:00:00:00:00:fe dev net nud permanent; }
mend() { ip -n "$tag-$1" neigh del "$(address "$2")" dev net; }

cargo build --quiet --release -p sarsen-client --bin sarsen
sarsen=$PWD/${CARGO_TARGET_DIR:-target}/release/sarsen
export XDG_RUNTIME_DIR=$work
"$sarsen" keygen "$work/key"

# Starts a daemon on a machine and waits for its ready line. `ip` becomes what it starts: the pid is
# the daemon's.
start() {
    local machine=$1
    shift
    : >"$work/$machine.ready"
    ip netns exec "$tag-$machine" "$sarsen" "$@" --key-file "$work/key" \
        >>"$work/$machine.ready" 2>"$work/$machine.log" &
    pids+=($!)
    for _ in $(seq 300); do
        grep -q '^ready ' "$work/$machine.ready" && return
        kill -0 "${pids[-1]}" 2>/dev/null || { cat "$work/$machine.log"; return 1; }
        sleep 0.1
    done
    echo "$machine is not ready"
    return 1
}

start m daemon:sarsen-master --dir "$work/m" --listen "$(address m):7400" --http 127.0.0.1:0 \
    --set heartbeat=200ms --set suspect_after=1s --set dead_after=3s --set lease=4s \
    --set repair_grace=1s --set gc_interval=1s --set chunk_size=4MiB
for machine in s1 s2 s3; do
    start "$machine" daemon:chunkd --master "$(address m):7400" --dir "$work/$machine" \
        --listen "$(address "$machine"):0" --data-listen "$(address "$machine"):0" --http 127.0.0.1:0
done
client() { on c "$sarsen" --master "$(address m):7400" --key-file "$work/key" "$@"; }
client wait --chunkservers 3

# The machines of the last chunk's replicas, the primary first, once there is one.
chain() {
    for _ in $(seq 100); do
        client --json locate /log | python3 -c '
import json, sys
chunk = json.load(sys.stdin)["chunks"][-1]
names = {"10.77.0.11": "s1", "10.77.0.12": "s2", "10.77.0.13": "s3"}
replicas = sorted(chunk["replicas"], key=lambda replica: not replica["primary"])
if not replicas or not replicas[0]["primary"]:
    sys.exit(1)
print(*(names[replica["data_addr"].split(":")[0]] for replica in replicas))' && return
        sleep 0.1
    done
    echo 'the last chunk has no primary' >&2
    return 1
}

lines() { wc -l <"$work/offsets"; }

# Waits until so many more records were acknowledged.
grows() {
    local from to
    from=$(lines)
    to=$((from + 20))
    for _ in $(seq 300); do
        (($(lines) >= to)) && return
        sleep 0.1
    done
    echo "no record was acknowledged any more behind $from"
    tail -n 20 "$work"/*.log
    return 1
}

heals() {
    for _ in $(seq 600); do
        client fsck >"$work/fsck" 2>&1 && return
        sleep 0.1
    done
    cat "$work/fsck"
    echo 'it does not heal'
    return 1
}

client touch /log
# Records one after the other, until there is a file that says stop.
mkfifo "$work/lines"
: >"$work/offsets"
ip netns exec "$tag-c" "$sarsen" --master "$(address m):7400" --key-file "$work/key" --timeout 120s \
    append --lines /log <"$work/lines" >>"$work/offsets" 2>"$work/append.log" &
appender=$!
pids+=("$appender")
(
    n=0
    while [[ ! -e $work/stop ]]; do
        echo "record $n"
        n=$((n + 1))
        sleep 0.02
    done
) >"$work/lines" 2>"$work/feeder.log" &
pids+=("$!")
grows

members=$(chain)
read -r primary successor _ <<<"$members"
echo "the primary ($primary) is cut off from the master only"
cut "$primary" m
cut m "$primary"
grows
sleep 5
grows
members=$(chain)
read -r now _ <<<"$members"
[[ $now != "$primary" ]] || { echo 'the lease stayed with whom the master cannot hear'; exit 1; }
mend "$primary" m
mend m "$primary"
grows
heals

members=$(chain)
read -r primary successor _ <<<"$members"
echo "the primary ($primary) is cut off from its successor ($successor) only"
cut "$primary" "$successor"
cut "$successor" "$primary"
grows
sleep 3
grows
mend "$primary" "$successor"
mend "$successor" "$primary"
grows
heals

members=$(chain)
read -r primary successor _ <<<"$members"
echo "nothing that the successor ($successor) sends reaches the primary ($primary)"
cut "$successor" "$primary"
grows
sleep 3
grows
mend "$successor" "$primary"
grows
heals

echo 'the master is cut off from all'
for machine in s1 s2 s3 c; do
    cut "$machine" m
    cut m "$machine"
done
sleep 5
status=0
before=$SECONDS
echo late | client --timeout 3s append /log >"$work/late" 2>"$work/stderr" || status=$?
cat "$work/stderr"
[[ $status == 5 ]] || { echo "exit code $status, not 5, after $((SECONDS - before)) s"; exit 1; }
[[ ! -s $work/late ]] || { echo 'an append was acknowledged behind the lease'; exit 1; }
stopped=$(lines)
sleep 2
[[ $(lines) == "$stopped" ]] || { echo 'the primary went on without its lease'; exit 1; }
for machine in s1 s2 s3 c; do
    mend "$machine" m
    mend m "$machine"
done
grows

touch "$work/stop"
wait "$appender" || { cat "$work/append.log"; echo 'the appender failed'; exit 1; }
heals
client --json records /log >"$work/records"
python3 - "$work" <<'P'
import base64, json, sys

work = sys.argv[1]
told = [int(line) for line in open(f"{work}/offsets")]
found = [json.loads(line) for line in open(f"{work}/records")]
payloads = [base64.b64decode(record["data"]).decode() for record in found]
at = {payload: record["offset"] for payload, record in zip(payloads, found)}
assert len(at) == len(payloads), "a record is there twice"
for n, offset in enumerate(told):
    assert at.get(f"record {n}") == offset, f"record {n} was told to be at {offset}"
others = set(payloads) - {f"record {n}" for n in range(len(told))}
assert not others - {"late"}, f"nobody appended {sorted(others)[:3]}"
print(f"{len(told)} records, each once where it was told to be")
P
echo 'partitions stop what they must, and no more'
