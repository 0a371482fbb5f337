# Sourced by run: other librdkafkas than the system's, from the sources of Debian's packages. Kept in the cache.
# shellcheck shell=bash disable=SC2154 # cache and build are set by run and lib.sh

# sum_of VERSION: prints the SHA-256 of its librdkafka_VERSION.orig.tar.gz.
sum_of() {
    case $1 in
        2.8.0) echo 5bd1c46f63265f31c6bfcedcde78703f77d28238eadf23821c2b43fc30be3e25 ;;
        2.14.2) echo 4d53568c13717b167d12c7b2a0fe12aeb5d6bfe02de53df5b68f86d870a81b33 ;;
        *) die "librdkafka $1 is not pinned: try it, then add its sum to .ci/librdkafka.sh" ;;
    esac
}

# librdkafka_source SUITE: prints the folder with the unpacked upstream source behind the librdkafka of a Debian. apt gets
# folders of its own, so that the system's sources stay as they are; it checks the signatures.
librdkafka_source() {
    local suite=$1 apt=$cache/$1 mirror version orig source sum
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    mirror=$(debian_mirror)
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    local options=(-q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    version=$(apt-cache "${options[@]}" showsrc librdkafka | sed -n 's/^Version: \(.*\)-[^-]*$/\1/p' | sort -V | tail -n 1)
    source=$cache/librdkafka-$version
    if [ ! -d "$source" ]; then
        (cd "$apt" && apt-get "${options[@]}" source --download-only librdkafka >&2)
        orig=$apt/librdkafka_$version.orig.tar.gz
        sum=$(sum_of "$version")
        echo "$sum  $orig" | sha256sum -c >&2 || die "$orig is not what it was"
        rm -rf "$source.new"
        mkdir "$source.new"
        tar -C "$source.new" --strip-components=1 -xf "$orig"
        mv "$source.new" "$source"
    fi
    echo "$source"
}

# librdkafka_system SUITE [thread]: prints where the librdkafka of a Debian is installed as a system's library, with
# ThreadSanitizer on request. What was built of the same source in the same way is taken again.
librdkafka_system() {
    local source prefix how=(--disable-gssapi --disable-curl)
    source=$(librdkafka_source "$1")
    if [ "${2:-}" = thread ]; then
        # It knows the threads of pthreads, and dies of C11's.
        local -x CFLAGS="-O1 -fsanitize=thread" LDFLAGS=-fsanitize=thread
        how+=(--disable-c11threads)
    fi
    prefix=$source-$({
        find "$source/src" -type f -name '*.[ch]' -print0 | LC_ALL=C sort -z | xargs -0 cat
        echo "${how[*]} ${CFLAGS:-}"
    } | sha256sum | cut -c 1-12)
    [ -d "$prefix" ] || build_librdkafka "$source" "$prefix" "${how[@]}" >&2
    echo "$prefix"
}

# build_librdkafka SOURCE PREFIX [option of configure]...: installs it there.
build_librdkafka() {
    local source=$1 prefix=$2 work=$build/${2##*/}
    shift 2
    rm -rf "$work" "$prefix.new"
    cp -r "$source" "$work"
    (
        cd "$work"
        ./configure --prefix="$prefix" "$@"
        make -C src -j2
        make -C src install DESTDIR="$prefix.new"
    ) >"$work.log" 2>&1 || die "no ${prefix##*/}: $(tail -n 50 "$work.log")"
    mv "$prefix.new$prefix" "$prefix"
    rm -rf "$prefix.new" "$work"
}
