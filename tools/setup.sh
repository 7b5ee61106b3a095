# shellcheck shell=bash disable=SC2034
# setup.sh - sourced by demo.sh and test.sh: installs what a fresh machine lacks, and says so.
# Debian 12 / Ubuntu 24.04 or newer: apt-get (with sudo unless root). macOS: brew (written to its
# documentation, not yet run on a Mac). Elsewhere: names what is missing. Nothing is installed
# that is there already.

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "root rights are needed to run: $* (install sudo, or run as root)"
    fi
}

# deb_missing PACKAGE...: prints those that are not installed.
deb_missing() {
    local p
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
    done
}

apt_updated=""
apt_install() {
    [ $# -gt 0 ] || return 0
    say "Installing Debian packages: $*"
    if [ -z "$apt_updated" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || die "apt-get update failed"
        apt_updated=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >/dev/null || die "apt-get could not install: $*"
}

# A program may be there without its package (built by hand): PROGRAM:PACKAGE pairs.
deb_missing_programs() {
    local pair
    for pair in "$@"; do
        have "${pair%%:*}" || deb_missing "${pair#*:}"
    done
}

brew_install() {
    have brew || die "Homebrew is needed and was not found"
    local p missing=()
    for p in "$@"; do
        brew list --versions "$p" >/dev/null 2>&1 || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "Installing with brew: ${missing[*]}"
    brew install "${missing[@]}" || die "brew could not install: ${missing[*]}"
}

# CMake 3.25 is the oldest that reads our presets.
check_cmake() {
    local v major minor
    v=$(cmake --version | sed -n '1s/.* //p')
    IFS=. read -r major minor _ <<<"$v"
    [ "$major" -gt 3 ] || [ "$minor" -ge 25 ] ||
        die "CMake $v is too old, 3.25 is needed (Debian 12, Ubuntu 24.04 or newer have it)"
}

# setup_build: what building the program needs.
setup_build() {
    local missing
    case "$(uname -s)" in
    Darwin)
        xcode-select -p >/dev/null 2>&1 || die "the compiler is missing: run xcode-select --install"
        brew_install cmake ninja pkgconf xz xxhash libmicrohttpd
        ;;
    *)
        if have apt-get; then
            missing="$(deb_missing_programs gcc:gcc cmake:cmake ninja:ninja-build pkg-config:pkg-config)"
            missing="$missing$(deb_missing libc6-dev liblzma-dev libedit-dev libssl-dev libxxhash-dev libmicrohttpd-dev)"
            # shellcheck disable=SC2086
            apt_install $missing
        else
            for missing in cc cmake ninja pkg-config; do
                have "$missing" || die "$missing is missing; needed: C compiler, cmake, ninja, pkg-config and the headers of liblzma, libedit, libcrypto, xxHash and libmicrohttpd"
            done
        fi
        ;;
    esac
    check_cmake
}

# find_clang: name of a clang that can build fuzz targets, in CLANG; empty if none.
find_clang() {
    local c probe
    probe=$(mktemp -d) || return 1
    printf 'int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n) { return n > 3 && p[0] == 1 ? 0 : 0; }\n' \
        >"$probe/f.c"
    CLANG=""
    for c in clang clang-14 clang-15 clang-16 clang-17 clang-18 clang-19 clang-20 \
        /opt/homebrew/opt/llvm/bin/clang /usr/local/opt/llvm/bin/clang; do
        if have "$c" && "$c" -fsanitize=fuzzer,address "$probe/f.c" -o "$probe/f" 2>/dev/null; then
            CLANG=$c
            break
        fi
    done
    rm -rf "$probe"
    [ -n "$CLANG" ]
}

# find_python: a Python 3 with numpy in PYTHON (without numpy if there is none).
find_python() {
    local p
    PYTHON=""
    for p in python3 /usr/bin/python3 /opt/homebrew/bin/python3; do
        if have "$p" && "$p" -c 'import numpy' >/dev/null 2>&1; then
            PYTHON=$(command -v "$p")
            return 0
        fi
    done
    have python3 && PYTHON=$(command -v python3)
    return 1
}

# setup_tests: on top of setup_build, everything the test suite uses.
setup_tests() {
    local missing version
    if [ "$(uname -s)" = Darwin ]; then
        brew_install cmocka llvm python numpy shellcheck clang-format universal-ctags
        find_clang || true
        find_python || true
        return 0
    fi
    have apt-get || { find_clang || true; find_python || true; return 0; }
    missing="$(deb_missing libcmocka-dev)"
    missing="$missing$(deb_missing_programs shellcheck:shellcheck ctags:universal-ctags clang-format-14:clang-format-14)"
    find_python || missing="$missing$(deb_missing python3 python3-numpy)"
    find_clang || missing="$missing$(deb_missing clang)"
    # shellcheck disable=SC2086
    apt_install $missing
    setup_browser
    find_python || true
    if ! find_clang; then # the sanitizer and fuzzer runtimes are a package of their own
        version=$(clang --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\).*/\1/p')
        [ -z "$version" ] || apt_install "libclang-rt-$version-dev"
        find_clang || true
    fi
}

# setup_browser: Chromium for the test of the server's page, which is skipped without it (Ubuntu has
# it as a snap only, which does not run everywhere).
setup_browser() {
    have chromedriver && { have chromium || have google-chrome; } && return 0
    # shellcheck disable=SC2046
    (apt_install $(deb_missing chromium chromium-driver)) ||
        say "Chromium is not to be had: the test of the server's page will be skipped"
}

# arm64_libs DIR: unpacks the arm64 packages that the tests need into DIR. apt works on lists and a
# package status of its own there, so the machine's packages stay as they are. Needs no root.
arm64_libs() {
    local dir=$1 apt more deb link target
    [ -e "$dir/.complete-2" ] && return 0
    rm -rf "$dir"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/apt/debs" || return 1
    dir=$(cd "$dir" && pwd)
    : >"$dir/apt/status"
    apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::State::Status="$dir/apt/status"
        -o Dir::Cache="$dir/apt/cache")
    "${apt[@]}" update || return 1
    # libmicrohttpd needs GnuTLS, whose libraries have other names in other releases.
    more=$(apt-cache "${apt[@]:1}" depends --recurse --no-recommends --no-suggests --no-conflicts \
        --no-breaks --no-replaces --no-enhances libmicrohttpd-dev | grep -E '^lib' |
        grep -vE -- '-dev$|^lib(c|gcc|crypt|stdc)[0-9-]|:' | sort -u)
    # shellcheck disable=SC2086
    (cd "$dir/apt/debs" && "${apt[@]}" download liblzma5 liblzma-dev libedit2 libedit-dev libbsd0 libmd0 \
        libtinfo6 libssl3 libssl-dev libxxhash-dev libcmocka0 libcmocka-dev libmicrohttpd-dev $more) || return 1
    for deb in "$dir"/apt/debs/*.deb; do
        dpkg-deb -x "$deb" "$dir" || return 1
    done
    rm -rf "$dir/apt"
    # Links for the linker that name the place a library has when installed.
    for link in "$dir"/usr/lib/aarch64-linux-gnu/*.so; do
        target=$(readlink "$link")
        case "$target" in /*) ln -sfn "$dir$target" "$link" ;; esac
    done
    : >"$dir/.complete-2"
}

# setup_metal: the compiler that can translate the Metal kernels, for the preset metal.
setup_metal() {
    case "$(uname -s)" in
    Linux) ;;
    *) say "the emulated Metal device runs on Linux only"; return 1 ;;
    esac
    have apt-get || have clang-19 || { say "clang-19 is not installed"; return 1; }
    # shellcheck disable=SC2046
    have clang++-19 || (apt_install $(deb_missing clang-19 libclang-rt-19-dev)) ||
        { say "clang-19 is not to be had"; return 1; }
}

# setup_clients: Node.js, npm and the packages that tests/clients/package.json pins, in build/clients (2 GB,
# about 0.7 GB to fetch). Fails with a reason; packages that alone could not be had are named, and
# their tests are skipped.
setup_clients() {
    local dir=build/clients from=tests/clients lost own
    lost=$("$PYTHON" "$from/sandbox.py") && cmp -s "$from/package-lock.json" "$dir/package-lock.json" && return 0
    if [ "$(uname -s)" = Darwin ]; then
        have npm || (brew_install node)
    elif have apt-get; then
        # shellcheck disable=SC2046
        (apt_install $(deb_missing_programs node:nodejs npm:npm git:git))
    fi
    { have node && have npm && have git; } || { say "Node.js, npm or git is not to be had"; return 1; }
    rm -rf "$dir"
    mkdir -p "$dir" && cp "$from/package.json" "$from/package-lock.json" "$dir" || return 1
    clients_npm npm ||
        { rm -f "$dir/package-lock.json"; say "npm cannot install the packages of tests/clients"; return 1; }
    # npm leaves out what wants a newer Node.js than its own; the pinned one is among the packages
    if ! lost=$("$PYTHON" "$from/sandbox.py") && own=$(echo "$PWD/$dir"/node_modules/node-linux-*/bin/node) && [ -x "$own" ]; then
        NODE_PATH=/usr/share/nodejs clients_npm "$own" "$(readlink -f "$(command -v npm)")"
        lost=$("$PYTHON" "$from/sandbox.py")
    fi
    [ -z "$lost" ] || say "NOT INSTALLED, their tests are skipped: $lost"
}

# clients_npm NPM...: installs by this npm what build/clients/package-lock.json says. No scripts of packages
# are run, and what is optional (every agent) may be missing afterwards.
clients_npm() {
    (cd build/clients && "$@" install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1)
}

# setup_arm64: cross compiler, emulator and libraries for the preset arm64. Fails with a reason.
setup_arm64() {
    local missing
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) say "cross building for arm64 is set up on Linux x86-64 only"; return 1 ;;
    esac
    have apt-get || { say "cross building for arm64 is set up with apt-get only"; return 1; }
    missing="$(deb_missing_programs aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
        qemu-aarch64-static:qemu-user-static)$(deb_missing libc6-dev-arm64-cross)"
    # shellcheck disable=SC2086
    (apt_install $missing) || { say "no cross compiler or emulator to be had: $missing"; return 1; }
    arm64_libs build/arm64-libs || { say "the arm64 libraries cannot be fetched"; return 1; }
}

n_cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }
