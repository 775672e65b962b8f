# shellcheck shell=bash
# What ci/suites and ci/test share: getting a machine ready, and running stages. Sourced, not run.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$ROOT"
# Debian gives ordinary users no sbin, where ip and nft are; rustup's directory is in PATH of login shells only.
export PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"
# The scripts have to know where the programs are built.
export CARGO_TARGET_DIR="$ROOT/target"

say() { printf '%s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}
# The comment at the script's top.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
# cannot WHY: fails, and leaves the reason to whoever can say what follows from it.
WHY=''
cannot() {
    WHY=$*
    return 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# Whether as_root works. sudo may ask for a password only where someone can type it.
can_be_root() {
    is_root || { have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }
}
as_root() { if is_root; then "$@"; else sudo "$@"; fi; }

# --- Packages ---

# install_programs PROGRAM=PACKAGE[,PACKAGE]...: installs the packages of the programs (or files, if they begin with
# `/`) that are missing. Neither sudo nor the package lists are touched when none is.
install_programs() {
    local pair what names missing=() packages=()
    for pair in "$@"; do
        what=${pair%%=*}
        case $what in
        /*) [ -e "$what" ] && continue ;;
        *) have "$what" && continue ;;
        esac
        missing+=("$what")
        IFS=, read -ra names <<<"${pair#*=}"
        packages+=("${names[@]}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! have apt-get || ! can_be_root; then
        cannot "missing here: ${missing[*]}; as root: apt-get install ${packages[*]}"
        return
    fi
    say "setup: installing ${packages[*]}, for ${missing[*]}"
    without_services install_packages "${packages[@]}"
}

install_packages() {
    local apt=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$LOG" 2>&1 && return
    cat "$LOG" >&2
    cannot "apt-get could not install $*"
}

# Installs without starting a service: Debian's etcd-server and docker.io bring services that would start at once,
# where only their programs are wanted. deb-systemd-invoke(1p) and invoke-rc.d(8) ask policy-rc.d, and 101 forbids.
without_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@" || status=$?
    else
        printf '#!/bin/sh\nexit 101\n' >"$WORK/policy"
        at_exit as_root rm -f "$policy"
        as_root install -m 0755 "$WORK/policy" "$policy"
        "$@" || status=$?
        as_root rm -f "$policy"
    fi
    # Nor at the next boot.
    if have systemctl && [[ " $* " == *" etcd-server "* ]]; then
        as_root systemctl disable --quiet etcd.service 2>/dev/null || true
    fi
    return $status
}

need_toolchain() {
    have cargo || die "there is no cargo: install a Rust toolchain first, of the version that Cargo.toml names or later"
    # Any crate needs a linker; etcd-client generates code from .proto files, which import protobuf's own.
    install_programs cc=gcc,libc6-dev protoc=protobuf-compiler,libprotobuf-dev || die "$WHY"
    if [ "$(command -v protoc)" = /usr/bin/protoc ]; then
        install_programs /usr/include/google/protobuf/descriptor.proto=libprotobuf-dev || die "$WHY"
    fi
}

# The programs that labs run beside our own, and the device that tunnels are made of.
need_lab() {
    install_programs etcd=etcd-server ip=iproute2 nft=nftables iptables=iptables sysctl=procps && need_tun
}

# need_component SUBCOMMAND COMPONENT: a part of the toolchain that rustup's minimal profile leaves out.
need_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    have rustup || die "there is no \`cargo $1\`: add $2 to the Rust toolchain"
    say "setup: adding $2 to the Rust toolchain"
    rustup component add "$2"
}

# --- The kernel's side ---

TUN=/dev/net/tun

# Makes /dev/net/tun where udev did not, as in a container or a chroot.
need_tun() {
    [ -e $TUN ] && return
    can_be_root || cannot "there is no $TUN; as root: mkdir -p /dev/net && mknod -m 0666 $TUN c 10 200" || return
    say "setup: mknod -m 0666 $TUN c 10 200, as udev would: without it there are no TUN devices"
    as_root mkdir -p /dev/net || cannot "/dev/net could not be made" || return
    as_root mknod -m 0666 $TUN c 10 200 || cannot "$TUN could not be made"
}

# Lets ordinary users open /dev/net/tun. That is Debian's and Ubuntu's own setting (udev's 50-udev-default.rules), absent
# only where no udev runs. It gives no rights over the machine's network: the kernel asks for CAP_NET_ADMIN in
# the network namespace where a device is to appear.
open_tun_to_users() {
    local mode
    mode=$(stat -c %a $TUN) || cannot "there is no $TUN" || return
    case $mode in *6) return ;; esac
    can_be_root || cannot "$TUN is closed to ordinary users; as root: chmod 0666 $TUN" || return
    say "setup: chmod 0666 $TUN (was 0$mode), as udev would: labs without root open it"
    as_root chmod 0666 $TUN || cannot "$TUN stays closed to ordinary users"
}

# Allows user namespaces to ordinary users, until this script ends, where the distribution does not: Ubuntu since 23.10
# by AppArmor, older Debian by a setting of its kernel.
allow_user_namespaces() {
    local key wanted was
    for key in kernel.apparmor_restrict_unprivileged_userns=0 kernel.unprivileged_userns_clone=1; do
        wanted=${key#*=} key=${key%=*}
        was=$(cat "/proc/sys/${key//.//}" 2>/dev/null) || continue
        [ "$was" != "$wanted" ] || continue
        can_be_root || cannot "user namespaces are closed to ordinary users; as root: sysctl -w $key=$wanted" || return
        say "setup: $key=$wanted (was $was) until this ends: labs without root live in user namespaces"
        set_kernel "$key" "$wanted" || cannot "user namespaces stay closed to ordinary users" || return
        at_exit set_kernel "$key" "$was"
    done
}

# set_kernel KEY VALUE: what sysctl(8) does, which minimal machines lack.
set_kernel() { printf '%s\n' "$2" | as_root tee "/proc/sys/${1//.//}" >/dev/null; }

# Whether all is there that a lab without root needs.
open_labs_to_users() { open_tun_to_users && allow_user_namespaces; }

# --- What is undone at the end ---

UNDO=()
# at_exit COMMAND...: runs the command when the script ends, however it does. Last come, first done.
at_exit() { UNDO=("$(printf '%q ' "$@")" "${UNDO[@]}"); }
undo() {
    local command
    for command in "${UNDO[@]}"; do eval "$command" || true; done
}
trap undo EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

WORK=$(mktemp -d /tmp/relay-ci.XXXXXX)
LOG=$WORK/log
at_exit rm -rf "$WORK"

# --- Stages ---

RESULTS=()
FAILED=0

# stage NAME COMMAND...: runs one stage. What fails is counted, and the next stage runs. A function that is a stage runs
# without errexit, as all conditions do in bash: join its commands by &&.
stage() {
    local name=$1 begin=$SECONDS result=ok
    shift
    printf '\n=== %s ===\n' "$name"
    "$@" </dev/null || result=FAILED
    [ $result = ok ] || FAILED=$((FAILED + 1))
    RESULTS+=("$(printf '%-8s %6s  %s' $result "$(duration $((SECONDS - begin)))" "$name")")
    printf '=== %s: %s in %s ===\n' "$name" $result "$(duration $((SECONDS - begin)))"
    [ $result = ok ]
}

# fail_stage NAME WHY, skip_stage NAME WHY: for the summary, a stage that could not run.
fail_stage() {
    FAILED=$((FAILED + 1))
    RESULTS+=("$(printf '%-8s %6s  %s: %s' FAILED - "$1" "$2")")
}
skip_stage() { RESULTS+=("$(printf '%-8s %6s  %s: %s' skipped - "$1" "$2")"); }

duration() {
    if [ "$1" -lt 60 ]; then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}

# Prints every stage with its result; its status is the script's.
summary() {
    printf '\n=== summary ===\n'
    printf '%s\n' "${RESULTS[@]}"
    if [ $FAILED -gt 0 ]; then
        say "$FAILED of ${#RESULTS[@]} stages FAILED, after $(duration $SECONDS)"
        return 1
    fi
    say "no stage of ${#RESULTS[@]} failed, in $(duration $SECONDS)"
}
