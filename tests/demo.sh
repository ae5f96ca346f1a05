#!/usr/bin/env bash
# `make demo`: the whole of llamafs in one go, explained as it happens. Ends in `demo: OK`.
# Installs nothing, needs no root (fusermount3 then), and leaves nothing behind.
# LLAMAFS_BIN names a program that is built already; LLAMAFS_DEMO_LINES how many lines each writer appends at most.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
MAX_LINES=${LLAMAFS_DEMO_LINES:-2000}

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: FAILED: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# Cuts a program's output after so many lines, without breaking its pipe.
first() { awk -v n="$1" 'NR <= n'; }

cat <<'TEXT'
What this demo does:
  1. builds llamafs,
  2. makes a store of 256 MiB in a file in a temporary directory and mounts it there,
  3. lets at least eight ordinary programs append text of this machine to one log at once,
  4. shows the log with cat, tail, grep and hexdump, and the device with its frames,
  5. unmounts, checks, mounts again, and compares every line,
  6. unmounts and removes everything it made.
It installs nothing and writes nowhere else.
TEXT
if [ "$(id -u)" != 0 ] && ! have fusermount3; then
    fail "a user needs fusermount3 to mount: install the package fuse3, or run as root"
fi
[ -e /dev/fuse ] || fail "there is no /dev/fuse: load the module with \`modprobe fuse\` as root"

say "building"
if [ -n "${LLAMAFS_BIN:-}" ]; then
    llamafs=$LLAMAFS_BIN
else
    cargo build --release --locked --bin llamafs
    llamafs=${CARGO_TARGET_DIR:-target}/release/llamafs
fi
llamafs=$(readlink -f "$llamafs")
"$llamafs" --version

work= mounted=
cleanup() {
    status=$?
    trap - EXIT INT TERM
    [ -z "$mounted" ] || "$llamafs" umount "$work/mnt" || true
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "looking for a place whose file system has O_DIRECT"
for place in "${TMPDIR:-/tmp}" /var/tmp "${CARGO_TARGET_DIR:-target}"; do
    candidate=$(mktemp -d "$place/llamafs-demo.XXXXXX" 2>/dev/null) || continue
    free=$(df -Pk "$candidate" | awk 'NR == 2 { print $4 }')
    if [ "$free" -gt 400000 ] && dd if=/dev/zero of="$candidate/try" bs=4096 count=1 oflag=direct 2>/dev/null; then
        work=$(readlink -f "$candidate")
        break
    fi
    rm -rf "$candidate"
done
[ -n "$work" ] || fail "no place with O_DIRECT and 400 MB free: set TMPDIR to one on ext4, xfs, btrfs or tmpfs"
rm -f "$work/try"
echo "$work"
mkdir "$work/mnt" "$work/in"
log=$work/mnt/log

say "llamafs format --size 256M --label demo"
"$llamafs" format --size 256M --label demo "$work/store"

say "llamafs mount"
"$llamafs" mount -o log="$work/daemon.log" "$work/store" "$work/mnt"
mounted=yes
ls -la "$work/mnt" "$work/mnt/.llamafs"

# ---- text of this machine -------------------------------------------------------------------------------------------
packages() { cat /var/log/dpkg.log 2>/dev/null || true; dpkg -l 2>/dev/null || true; }
kernel() { dmesg 2>/dev/null || true; uname -a; cat /proc/cpuinfo /proc/meminfo /proc/interrupts 2>/dev/null || true; }
sources() { cat src/*.rs src/*/*.rs; }
documents() { cat ./*.md docs/*.md Cargo.toml Cargo.lock; }

# ---- the writers: each reads its lines from $1 and appends them to $2, in its own way -------------------------------
by_bash() { while IFS= read -r line; do printf '%s\n' "$line" >>"$2"; done <"$1"; }
by_sh() { sh -c 'while IFS= read -r line; do printf "%s\n" "$line"; done <"$1" >>"$2"' sh "$1" "$2"; }
by_tee() { tee -a "$2" <"$1" >/dev/null; }
by_dd() { dd if="$1" of="$2" oflag=append conv=notrunc bs=4096 2>/dev/null; }
by_awk() { awk -v to="$2" '{ print >> to }' "$1"; }
by_cat() { cat "$1" >>"$2"; }
by_sed() { sed -u '' "$1" >>"$2"; }
by_grep() { grep --line-buffered '' "$1" >>"$2"; }
by_sort() { sort -s -t'|' -k2,2n "$1" >>"$2"; }
by_xargs() { xargs -d '\n' -n 50 printf '%s\n' <"$1" >>"$2"; }
by_head() { head -n 1000000 "$1" >>"$2"; }
by_python3() { python3 -c 'import sys
with open(sys.argv[2], "ab", buffering=0) as log:
    for line in open(sys.argv[1], "rb"): log.write(line)' "$1" "$2"; }
by_perl() { perl -e 'open my $in, "<", $ARGV[0] or die; open my $log, ">>", $ARGV[1] or die;
select $log; $| = 1; print while <$in>; close $log or die;' "$1" "$2"; }

writers=()
for writer in bash sh tee dd awk cat sed grep sort xargs head python3 perl; do
    ! have "$writer" || writers+=("$writer")
done
[ ${#writers[@]} -ge 8 ] || fail "only ${#writers[@]} of the programs are here (${writers[*]}); eight are needed"

# A line begins with its writer and number, so that every one can be found again. llamafs keeps each write() whole, but
# many programs collect their output and write it in blocks of 4096 bytes or a multiple, wherever a line may be then.
# With lines of 128 bytes a block is always whole lines, whoever writes it.
number=0
for writer in "${writers[@]}"; do
    case $((number++ % 4)) in 0) packages ;; 1) kernel ;; 2) sources ;; *) documents ;; esac |
        tr '\11' ' ' | tr -cd '\12\40-\176' | awk -v w="$writer" -v n="$MAX_LINES" \
        'NR <= n { printf "%-127.127s\n", sprintf("%s|%06d|%s", w, NR, $0) }' >"$work/in/$writer"
done

say "${#writers[@]} programs append at once to /log: ${writers[*]}"
pids=()
for writer in "${writers[@]}"; do
    "by_$writer" "$work/in/$writer" "$log" &
    pids+=($!)
done
for at in "${!pids[@]}"; do
    wait "${pids[$at]}" || fail "${writers[$at]} could not append"
done
if have script && script --version >/dev/null 2>&1; then
    say "script -a records a session at the end of the log, too"
    script -q -a -c 'echo "script|a session"; uname -sr' "$log" </dev/null >/dev/null || fail "script could not append"
    writers_note="and script -a"
fi
lines=$(cat "$work"/in/* | wc -l)
echo "appended: $lines lines by ${#writers[@]} programs ${writers_note:-}; the log has $(wc -c <"$log") bytes"

say "reading it back with what every machine has"
echo '$ cat log | head -n 5'; cat "$log" | first 5
echo '$ tail -n 3 log'; tail -n 3 "$log"
echo "\$ grep -c '^awk|' log"; grep -c '^awk|' "$log"
sum_mounted=$(cksum <"$log")
if have hexdump; then hex() { hexdump -C; }; else hex() { od -A x -t x1z -v; }; fi
echo '$ hexdump -C log | head -n 6'; head -c 96 "$log" | hex

say "append-only: what is written stays"
if (: >"$log") 2>/dev/null; then fail "the log let itself be truncated"; else echo '$ : > log     refused, as it must be'; fi

say "the device under it, from /.llamafs/device"
sync "$log" 2>/dev/null || true
dump() { head -c "$(($1 + $2))" "$work/mnt/.llamafs/device" | tail -c "$2" | hex; }
echo 'The superblock: magic LLAMAFS1, version, checksum, uuid and label; from 0x200 on it explains itself in words.'
dump 0 96
dump 512 256
echo "The state of the store, from /.llamafs/status:"
first 12 <"$work/mnt/.llamafs/status"

compare() { # every writer's lines are there, once each, in their order, and not a line more
    for writer in "${writers[@]}"; do
        grep -a "^$writer|" "$log" | cmp -s - "$work/in/$writer" || fail "$1: the lines of $writer are not as they were written"
    done
    extra=$(grep -a -v -c -E "^($(IFS='|'; echo "${writers[*]}"))\|[0-9]{6}\|" "$log" || true)
    [ "$extra" -le 8 ] || fail "$1: $extra lines that nobody wrote"
    [ "$(cksum <"$log")" = "$sum_mounted" ] || fail "$1: the log changed"
    echo "$1: all $lines lines of ${#writers[@]} programs, each once, in order"
}
compare "while mounted"

say "llamafs umount: returns when everything is on the device and the daemon is gone"
"$llamafs" umount "$work/mnt"
mounted=

say "llamafs check"
"$llamafs" check "$work/store"

say "the frames on the unmounted device"
cat <<'TEXT'
A frame is a 32-byte header (two lines of hexdump), the bytes of one write as they are, and zeros up to a multiple of
16: kind, checksum, length with epoch, log id, offset in the log, time. DATA is a write, MARK says up to where
everything is on the device, EPOC begins a mount, PADD fills up to a block, META is a change of attributes.
TEXT
"$llamafs" dump "$work/store" | first 12
at=$("$llamafs" dump "$work/store" | awk '$4 == "DATA" { print $2; exit }')
echo "The first DATA frame, at $at of the device:"
tail -c "+$((at + 1))" "$work/store" | head -c 112 | hex || true
[ "$("$llamafs" cat "$work/store" /log | cksum)" = "$sum_mounted" ] || fail "llamafs cat differs from the mounted log"
echo "llamafs cat $work/store /log: the same bytes"

say "mounting it again"
"$llamafs" mount -o log="$work/daemon.log" "$work/store" "$work/mnt"
mounted=yes
compare "after the remount"
echo "one more line" >>"$log"
[ "$(tail -n 1 "$log")" = "one more line" ] || fail "the log does not go on after the remount"
"$llamafs" umount "$work/mnt"
mounted=

say "cleaning up"
rm -rf --one-file-system "$work"
work=
echo
echo "demo: OK"
