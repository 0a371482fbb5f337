# Shared by the scripts beside it, which source it: what a fresh machine lacks, and the virtual environment.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
# shellcheck disable=SC2034 # for the scripts that source this
cache=${KAFKA_ASYNC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kafka_async}
python=${PYTHON:-python3}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$@"
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# System packages -------------------------------------------------------------------------------

# need APT DNF APK BREW: remembers packages to install, by their names there.
wanted=("" "" "" "")
need() {
    local i
    for i in 0 1 2 3; do
        wanted[i]="${wanted[i]:+${wanted[i]} }$1"
        shift
    done
}

# Installs what need() remembered, or says how to and stops.
install_needed() {
    local command="" sudo="" update=""
    [ -n "${wanted[0]}" ] || return 0
    if has apt-get; then
        update="apt-get update -q"
        command="apt-get install -q -y --no-install-recommends ${wanted[0]}"
    elif has dnf; then
        command="dnf install -y ${wanted[1]}"
    elif has apk; then
        command="apk add ${wanted[2]}"
    elif has brew; then
        command="brew install ${wanted[3]}"
    else
        die "no apt-get, dnf, apk or brew here. Install by other means what Debian calls: ${wanted[0]}"
    fi
    wanted=("" "" "" "")
    if [ "${command%% *}" != brew ] && [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || die "system packages are missing. Install them, then try again: sudo $command"
        sudo="sudo -n"
    fi
    if [ -n "$update" ]; then
        say "$sudo${sudo:+ }$update"
        # shellcheck disable=SC2086 # a command and its words
        $sudo env DEBIAN_FRONTEND=noninteractive $update >&2
    fi
    say "$sudo${sudo:+ }$command"
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive $command >&2 || die "that failed. Mend it, then try again: $sudo $command"
}

# Building --------------------------------------------------------------------------------------

compiles() { echo '#include <stdio.h>' | "${CC:-cc}" -E -x c - >/dev/null 2>&1; }
has_headers() {
    "$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}
case ${CMAKE_ARGS:-} in
    *KAFKA_ASYNC_LIBRDKAFKA=bundled*) bundled=yes ;;
    *) bundled=no ;;
esac
has_librdkafka() { has pkg-config && pkg-config --exists 'rdkafka >= 2.0.2'; }

need_compiler() {
    compiles && return 0
    [ "$(uname)" != Darwin ] || die "no C compiler. Run, then try again: xcode-select --install"
    need "gcc libc6-dev" gcc "gcc musl-dev" ""
}

prepare_system() {
    has "$python" || need python3 python3 python3 python
    install_needed
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" --version) is too old. Name a newer one: PYTHON=python3.12 $0"
    need_compiler
    has_headers || need python3-dev python3-devel python3-dev python
    "$python" -c 'import ensurepip' 2>/dev/null || need python3-venv python3 python3 python
    if [ "$bundled" = no ] && ! has_librdkafka; then
        need "pkg-config librdkafka-dev" "pkgconf-pkg-config librdkafka-devel" "pkgconf librdkafka-dev" "pkgconf librdkafka"
    fi
    install_needed
    has_headers || die "$python has no headers. Name a Python that has them: PYTHON=/usr/bin/python3 $0"
    if [ "$bundled" = yes ] || ! has_librdkafka; then # the distribution's may be too old
        need_bundled
        install_needed
    fi
}

# What cmake/librdkafka.cmake asks for when it builds librdkafka itself.
need_bundled() {
    printf '#include <%s>\n' openssl/ssl.h zlib.h zstd.h | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1 && has git && return 0
    need "g++ git libssl-dev zlib1g-dev libzstd-dev" "gcc-c++ git openssl-devel zlib-devel libzstd-devel" \
        "g++ git openssl-dev zlib-dev zstd-dev" "git openssl@3 zlib zstd"
}

# For what is built without pip.
need_cmake() {
    export PATH=$venv/bin:$PATH
    if ! has cmake || ! has ninja; then
        "$venv/bin/python" -m pip install -q 'cmake>=3.20' ninja
    fi
}

# prepare EXTRA...: everything up to an installed package in .venv. The installation is editable, so
# only what was compiled and the list of modules can grow stale; a stamp for each extra tells.
prepare() {
    local extra extras="$*"
    if up_to_date "$@"; then return 0; fi
    prepare_system
    [ -x "$venv/bin/python" ] || "$python" -m venv --clear "$venv"
    say "building and installing into .venv"
    pip_install "$venv" --editable "${root}[${extras// /,}]"
    for extra in "$@"; do
        built_from >"$venv/stamp-$extra"
    done
}

# pip_install VENV ARGUMENT...: with KAFKA_ASYNC_LOCK, a file of versions and hashes, nothing else is downloaded, and what
# that lacks is an error.
pip_install() {
    local install=("$1/bin/python" -m pip install -q)
    shift
    if [ -n "${KAFKA_ASYNC_LOCK:-}" ]; then
        "${install[@]}" --require-hashes --only-binary :all: -r "$KAFKA_ASYNC_LOCK"
        install+=(--no-index --no-build-isolation)
    fi
    "${install[@]}" "$@"
}

up_to_date() {
    local extra stamp
    [ -x "$venv/bin/python" ] || return 1
    stamp=$(built_from)
    for extra in "$@"; do
        [ "$(cat "$venv/stamp-$extra" 2>/dev/null)" = "$stamp" ] || return 1
    done
}

built_from() {
    (
        cd "$root"
        {
            find csrc cmake CMakeLists.txt pyproject.toml ${KAFKA_ASYNC_LOCK:+"$KAFKA_ASYNC_LOCK"} -type f | LC_ALL=C sort | xargs cat
            find kafka_async -name '*.py' | LC_ALL=C sort
            "$venv/bin/python" --version
            pkg-config --modversion rdkafka 2>/dev/null
            echo "${CMAKE_ARGS:-}"
        } | cksum
    )
}

# Debian's mirror, as this machine's apt knows it.
debian_mirror() {
    local mirror
    mirror=$(main_repository)
    if [ -z "$mirror" ]; then # apt has no lists yet
        apt-get update -q >&2
        mirror=$(main_repository)
    fi
    [ -n "$mirror" ] || die "apt here knows no mirror of Debian. Add one to its sources, then: apt-get update"
    echo "$mirror"
}

main_repository() { # not the ones of updates: their code name has a dash
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
        awk '$2 ~ /^[a-z]+$/ && !found {print $1; found = 1}'
}

# Kafka -----------------------------------------------------------------------------------------

# end_with_kafka: makes $work, a folder, and ends it and what start_kafka has started with the script.
end_with_kafka() {
    work=$(mktemp -d)
    server=""
    composed=""
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# shellcheck disable=SC2317 # called by the trap
finish() {
    trap - EXIT
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || true
    fi
    [ -z "$composed" ] || docker compose -f "$root/docker-compose.yml" down >&2
    rm -rf "$work"
}

# Exports KAFKA_BOOTSTRAP_SERVERS: the one that is named there, else docker compose's, else one from Kafka's jars.
start_kafka() {
    if [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        say "Kafka: $KAFKA_BOOTSTRAP_SERVERS, as KAFKA_BOOTSTRAP_SERVERS says"
    elif docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
        composed=yes
        docker compose -f "$root/docker-compose.yml" up -d --wait >&2 || return 1
        KAFKA_BOOTSTRAP_SERVERS=localhost:9092
        say "Kafka: $KAFKA_BOOTSTRAP_SERVERS, by docker compose"
    else
        start_jars "$work/servers" || return 1
        say "Kafka: $KAFKA_BOOTSTRAP_SERVERS, from its jars"
    fi
    export KAFKA_BOOTSTRAP_SERVERS
}

# start_jars FIFO: starts a broker from Kafka's jars and waits until it answers. Exports KAFKA_BOOTSTRAP_SERVERS
# and sets server, the process to end.
start_jars() {
    # In a subshell of its own, so that its "can't" does not end the script.
    KAFKA_ASYNC_KAFKA_LIBS=${KAFKA_ASYNC_KAFKA_LIBS:-$("$root/script/kafka-jars")} || return 1
    export KAFKA_ASYNC_KAFKA_LIBS
    mkfifo "$1"
    "$venv/bin/python" "$root/tests/kafka_server.py" >"$1" &
    # shellcheck disable=SC2034 # for the scripts that source this
    server=$!
    read -r KAFKA_BOOTSTRAP_SERVERS <"$1" || return 1
    export KAFKA_BOOTSTRAP_SERVERS
}
