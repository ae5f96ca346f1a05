//! The daemon of an ordinary user: mounted by `fusermount3`, theirs alone unless the machine's owner allows others.
//!
//! Each test is a script that runs in a mount namespace of its own, as root, with a `/dev/fuse` and an `/etc/fuse.conf` of
//! its own, and becomes the user where it says `user`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

/// Before every script. `$D` is its directory, `$B` the program.
const PRELUDE: &str = r#"
set -eu
trap 'umount -l "$D/mnt" 2>/dev/null || true' EXIT
mknod "$D/fuse" c 10 229; chmod 666 "$D/fuse"; mount --bind "$D/fuse" /dev/fuse
echo "$CONF" > "$D/fuse.conf"; mount --bind "$D/fuse.conf" /etc/fuse.conf
mkdir "$D/home" "$D/mnt"; chown 65534:65534 "$D/home" "$D/mnt"
as() { id=$1; shift; setpriv --reuid "$id" --regid "$id" --clear-groups env -u XDG_STATE_HOME HOME="$D/home" "$@"; }
user() { as 65534 "$@"; }
other() { as 1 "$@"; }
refused() { if said=$("$@" 2>&1); then echo "was not refused: $*"; exit 1; fi; }
says() { case "$said" in *"$1"*) ;; *) echo "says: $said"; exit 1;; esac; [ "$(echo "$said" | wc -l)" = 1 ]; }
mounted() { grep -q " $D/mnt fuse.llamafs " /proc/self/mounts; }
clean() { "$B" status --json "$D/home/store" | grep -q '"clean": true'; }
mount_it() { user "$B" mount --create 64M "$@" "$D/home/store" "$D/mnt"; mounted; }
ended() { for i in $(seq 500); do mounted || return 0; sleep 0.01; done; echo "still mounted"; exit 1; }
append() { user sh -c 'echo "$2" >> "$1"' sh "$D/mnt/log" "$1"; }
daemon() { user sed -n 's/^pid: //p' "$D/mnt/.llamafs/status"; }
cd /
"#;

fn script(conf: &str, text: &str) {
    let dir = tempfile::Builder::new().prefix("llamafs-user").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("llamafs");
    std::fs::copy(env!("CARGO_BIN_EXE_llamafs"), &program).unwrap();
    let out = Command::new("timeout")
        .args(["60", "unshare", "--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{PRELUDE}{text}"))
        .env("D", dir.path())
        .env("B", &program)
        .env("CONF", conf)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    // Somebody else's mounts of the machine are not ours to see.
    std::thread::sleep(Duration::from_millis(50));
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_user_mounts_appends_reads_and_unmounts() {
    script(
        "",
        r#"
mount_it
[ "$(stat -c %u /proc/$(daemon)/status)" = 65534 ]
append one; append two
[ "$(user cat "$D/mnt/log")" = "$(printf 'one\ntwo')" ]
[ "$(user stat -c %u:%a "$D/mnt/log")" = 65534:644 ]
user sync "$D/mnt/log"
user "$B" umount "$D/mnt"
! mounted; clean
[ "$(user "$B" cat "$D/home/store" log)" = "$(printf 'one\ntwo')" ]
grep -q "everything is on the device" "$D/home/.local/state/llamafs.log"
"#,
    );
}

#[test]
fn a_users_daemon_ends_in_order_on_sigterm_and_recovers_from_kill() {
    script(
        "",
        r#"
mount_it; append one
user kill -TERM "$(daemon)"
ended; for i in $(seq 500); do clean && break; sleep 0.01; done; clean
mount_it; append two; user sync "$D/mnt/log"
user kill -KILL "$(daemon)"
user "$B" umount "$D/mnt"; ! mounted
mount_it
[ "$(user cat "$D/mnt/log")" = "$(printf 'one\ntwo')" ]
user "$B" umount "$D/mnt"; clean
"#,
    );
}

#[test]
fn nobody_else_gets_into_a_users_mount_and_nobody_else_ends_it() {
    script(
        "",
        r#"
mount_it; append one
refused other cat "$D/mnt/log"
refused other ls "$D/mnt"
refused cat "$D/mnt/log"
refused other cat "$D/mnt/.llamafs/device"
refused other "$B" umount "$D/mnt"; mounted
refused other kill -TERM "$(daemon)"
[ "$(user cat "$D/mnt/log")" = one ]
user "$B" umount "$D/mnt"; clean
"#,
    );
}

#[test]
fn others_are_allowed_only_where_the_machines_owner_says_so() {
    script(
        "# nothing",
        r#"
refused user "$B" mount --create 64M -o allow_other "$D/home/store" "$D/mnt"
says "user_allow_other in /etc/fuse.conf"
! mounted
"#,
    );
    script(
        "user_allow_other",
        r#"
mount_it -o allow_other; append one
[ "$(other cat "$D/mnt/log")" = one ]
[ "$(cat "$D/mnt/log")" = one ]
refused other sh -c 'echo x >> "$1"' sh "$D/mnt/log"
refused other chmod 666 "$D/mnt/log"
user chmod 666 "$D/mnt/log"
other sh -c 'echo two >> "$1"' sh "$D/mnt/log"
user chmod 600 "$D/mnt/log"
refused other cat "$D/mnt/log"
refused other cat "$D/mnt/.llamafs/device"
[ "$(user cat "$D/mnt/log")" = "$(printf 'one\ntwo')" ]
user "$B" umount "$D/mnt"; clean
"#,
    );
}

#[test]
fn what_a_user_may_not_is_told_by_one_sentence() {
    script(
        "",
        r#"
mkdir "$D/roots"
refused user "$B" mount --create 64M "$D/home/store" "$D/roots"; says "no permission to mount on $D/roots"
: > "$D/roots/store"; chmod 600 "$D/roots/store"
refused user "$B" mount "$D/roots/store" "$D/mnt"; says "ermission"
chmod 600 "$D/fuse"
refused user "$B" mount --create 64M "$D/home/store" "$D/mnt"; says "may not open /dev/fuse"
! mounted
"#,
    );
}
