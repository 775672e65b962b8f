# shellcheck shell=bash
# The container engine for the suites' runs with etcd in a container. Sourced by ci/test.

# The engine's socket, and why there is no engine, if there is none.
ENGINE_SOCKET=/var/run/docker.sock
NO_ENGINE=''

engine_answers() {
    [ -S "$ENGINE_SOCKET" ] && DOCKER_HOST=unix://$ENGINE_SOCKET timeout 10 docker version >/dev/null 2>&1
}

# Finds the engine as the harness does, or starts one if there must be one.
find_engine() {
    case ${DOCKER_HOST-} in unix://*) ENGINE_SOCKET=${DOCKER_HOST#unix://} ;; esac
    if [ "$CONTAINERS" = never ]; then
        NO_ENGINE='--containers never'
    elif engine_answers; then
        say "setup: container engine at $ENGINE_SOCKET"
    elif [ "$CONTAINERS" = auto ]; then
        NO_ENGINE="no container engine answers at $ENGINE_SOCKET"
    elif ! can_be_root; then
        NO_ENGINE="no container engine answers at $ENGINE_SOCKET, and it takes root to start one"
    else
        # Debian has the client in a package of its own since 13.
        if install_programs dockerd=docker.io && install_programs docker=docker-cli; then
            start_engine || NO_ENGINE='no container engine answers, and none could be started'
        else
            NO_ENGINE=$WHY
        fi
    fi
    [ -z "$NO_ENGINE" ] || say "setup: no runs with etcd in a container: $NO_ENGINE"
}

# Starts an engine for this run alone, with data of its own. It gets a network namespace as well: a daemon removes any
# `docker0` that it does not want itself, and another engine's may be there. Labs do not use the engine's networks.
start_engine() {
    local dir=$WORK/engine
    mkdir "$dir"
    chmod 0755 "$WORK" "$dir"
    ENGINE_SOCKET=$dir/docker.sock
    export DOCKER_HOST=unix://$ENGINE_SOCKET
    printf '{}\n' >"$dir/config.json"
    as_root unshare --net dockerd --config-file "$dir/config.json" --host "$DOCKER_HOST" --group "$TEST_GROUP" \
        --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --bridge none --iptables=false --ip6tables=false >"$dir/log" 2>&1 </dev/null &
    at_exit stop_engine "$dir"
    local i
    for ((i = 0; i < 60; i++)); do
        if engine_answers; then
            say "setup: started a container engine of this run's own"
            return
        fi
        [ -d /proc/$! ] || break
        sleep 0.5
    done
    tail -n 20 "$dir/log" >&2
    return 1
}

stop_engine() {
    if [ -e "$1/pid" ]; then
        as_root kill "$(cat "$1/pid")"
        wait
    fi
    as_root rm -rf "$1"
}
