# shellcheck shell=bash
# Runs of the suites without root. Sourced by ci/test.

# Who they run as: this user, or if that is root a user id that no account has. No account is needed for it, so none
# is made.
TEST_USER=$(id -u)
TEST_GROUP=$(id -g)
if is_root; then
    TEST_USER=59999
    while getent passwd "$TEST_USER" || getent group "$TEST_USER"; do TEST_USER=$((TEST_USER - 1)); done >/dev/null
    TEST_GROUP=$TEST_USER
fi
STRANGER=(setpriv --reuid "$TEST_USER" --regid "$TEST_GROUP")

# suites_as_user KIND: all suites without root.
suites_as_user() {
    if is_root; then
        suites_as_stranger "$1"
    else
        HARNESS_ETCD=$1 INSTA_UPDATE=${INSTA_UPDATE-new} INSTA_WORKSPACE_ROOT=$ROOT "$SUITES"
    fi
}

# A user who shares nothing with root can neither read a clone under /root nor write reports to root's. So the stranger
# gets a copy of what a run needs, mounted in the tree's place for that run only (the test program knows its suite files
# by the path they were built at). What it writes stays in the copy; reports are fetched from there.
suites_as_stranger() {
    local kind=$1 copy=$WORK/copy home=$WORK/home program groups=(--clear-groups) environment status=0
    rm -rf "$copy" "$home"
    chmod 0755 "$WORK"
    for program in "$SUITES" "$RELAY"; do
        install -D -m 0755 "$program" "$copy/${program#"$ROOT"/}" || return
    done
    cp -r suites "$copy/" && chmod -R a+rX "$copy" || return
    install -d -o "$TEST_USER" -g "$TEST_USER" "$home" "$copy/target/failures" || return

    # Who may use the engine is in its socket's group.
    [ "$kind" != container ] || groups=(--groups "$(stat -c %g "$ENGINE_SOCKET")")
    environment=(env -i "PATH=$PATH" "HOME=$home" "HARNESS_ETCD=$kind" INSTA_UPDATE=no "INSTA_WORKSPACE_ROOT=$ROOT"
        ${DOCKER_HOST+"DOCKER_HOST=$DOCKER_HOST"} ${RUST_BACKTRACE+"RUST_BACKTRACE=$RUST_BACKTRACE"})
    # shellcheck disable=SC2016 # the inner shell expands them
    unshare --mount bash -euc '
        tree=$1 copy=$2 closed=$3
        shift 3
        if [ -n "$closed" ]; then
            mount -t tmpfs -o mode=0755 tree "$closed"
            mkdir -p "$tree"
        fi
        mount --bind "$copy" "$tree"
        cd "$tree"
        exec "$@"
    ' - "$ROOT" "$copy" "$(closed_directory)" "${STRANGER[@]}" "${groups[@]}" "${environment[@]}" "$SUITES" || status=$?
    rmdir "$copy/target/failures" 2>/dev/null || mv "$copy/target/failures" target/
    return $status
}

# The first directory on the way to the tree that the stranger may not pass, if any.
closed_directory() {
    local directory='' part parts
    IFS=/ read -ra parts <<<"${ROOT#/}"
    for part in "${parts[@]}"; do
        directory+=/$part
        if ! "${STRANGER[@]}" --clear-groups test -x "$directory"; then
            printf '%s\n' "$directory"
            return
        fi
    done
}
