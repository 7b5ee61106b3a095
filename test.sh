#!/usr/bin/env bash
# test.sh - the whole test suite, with its own set-up. Installs what is missing (and says so),
# builds with warnings as errors, runs unit, ops, golden, api and fuzz-replay tests, sanitizer
# subsets, a clang build and every fuzz target. The last line is "N passed, N failed, N skipped";
# the exit status is 1 if anything failed. Logs stay in build/test-logs.
#
#   ./test.sh          about half an hour on 2 cores
#   ./test.sh --long   60 s per fuzz target, all tests under the sanitizers, 20 times the fault runs
#                      and operations of the disk store, and a conversation of a million tokens on it (3.7 GB)
# shellcheck disable=SC2317,SC2016  # functions are called through check and xargs
set -u
cd "$(dirname "$0")" || exit 1
# shellcheck source=tools/setup.sh
. tools/setup.sh

fuzz_seconds=10
long=""
export FATHOM_TEST_TASKS=3 # test_factory_mini: every third task
case "${1:-}" in
"") ;;
--long)
    long=1 fuzz_seconds=60
    export FATHOM_TEST_KV=20 # fault and model tests of the disk store: as many times the runs
    export TASK_STEP=1 PROMPT_STEP=1 FATHOM_TEST_TASKS=1 SCALE_GB=3.5 SCALE_KILLS=20 FATHOM_TEST_SEEDS=20 # api tests: all tasks and prompts, not every fourth
    ;;
-h | --help)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*) die "unknown option $1 (./test.sh --help)" ;;
esac

passed=0 failed=0 skipped=0
logs=$PWD/build/test-logs
rm -rf "$logs"
mkdir -p "$logs"
unset FATHOM_MODEL FATHOM_LOG
export LC_ALL=C

# took BEGIN: ", N s" for what took longer than a few seconds.
took() { [ $((SECONDS - $1)) -lt 3 ] || printf ', %d s' $((SECONDS - $1)); }
title() { printf '\n== %s\n' "$*"; }
finish() {
    printf '\n%d s\n' "$SECONDS"
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
    exit
}

# check NAME COMMAND...: one counted check; its output is shown if it fails. Exit status 77 skips.
check() {
    local name=$1 log status begun=$SECONDS
    shift
    log=$logs/${name//[^A-Za-z0-9_.-]/_}.log
    "$@" >"$log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        printf 'ok       %s%s\n' "$name" "$(took "$begun")"
    elif [ $status -eq 77 ]; then
        skipped=$((skipped + 1))
        printf 'skipped  %s: %s\n' "$name" "$(tail -n 1 "$log")"
    else
        failed=$((failed + 1))
        printf 'FAILED   %s (exit %d)\n' "$name" "$status"
        tail -n 60 "$log" | sed 's/^/    /'
    fi
    return $status
}

# build NAME PRESET TARGETS CMAKE-OPTION...: configures and builds, as one check.
build() {
    local name=$1 preset=$2 targets=$3
    shift 3
    check "$name" do_build "$preset" "$targets" "$@"
}
do_build() {
    local preset=$1 targets=$2
    shift 2
    # shellcheck disable=SC2086
    cmake --preset "$preset" "${options[@]}" "$@" &&
        cmake --build "build/${dir:-$preset}" --parallel "$(n_cores)" ${targets:+--target $targets}
}

attribute() { sed -n "s/.*<testsuite[^>]* $1=\"\\([0-9]*\\)\".*/\\1/p" <<<"$2" | head -n 1; }

# run_ctest NAME BUILD-DIR CTEST-OPTION...: adds ctest's own counts.
run_ctest() {
    local name=$1 dir=$2 log xml head n bad off begun=$SECONDS
    shift 2
    log=$logs/$name.log
    xml=$logs/$name.xml
    ctest --test-dir "$dir" --output-on-failure --no-tests=error -j "$(n_cores)" \
        --output-junit "$xml" "$@" >"$log" 2>&1
    if [ ! -s "$xml" ]; then
        failed=$((failed + 1))
        printf 'FAILED   %s: ctest did not run\n' "$name"
        tail -n 20 "$log"
        return
    fi
    head=$(tr '\n\t' '  ' <"$xml" | grep -o '<testsuite [^>]*>' | head -n 1)
    n=$(attribute tests "$head") bad=$(attribute failures "$head") off=$(attribute skipped "$head")
    off=$((off + $(attribute disabled "$head")))
    passed=$((passed + n - bad - off)) failed=$((failed + bad)) skipped=$((skipped + off))
    printf '%-8s %s: %d tests, %d failed, %d skipped%s\n' "$([ "$bad" -eq 0 ] && echo ok || echo FAILED)" \
        "$name" "$n" "$bad" "$off" "$(took "$begun")"
    if [ "$bad" -ne 0 ]; then
        grep -vE ' Passed |^ *Start |^Internal|^Test project|sec\*proc|^Label|^$' "$log" |
            tail -n 100 | sed 's/^/    /'
    fi
    grep -E 'Skipped' "$log" | sed 's/^/    /'
}

# fuzz_one TARGET: one libFuzzer run over a copy of the corpus.
fuzz_one() {
    local target=$1 name=${1#fuzz_} work
    work=$(mktemp -d) || return 1
    [ -d "tests/fuzz/corpus/$name" ] && cp -r "tests/fuzz/corpus/$name/." "$work"
    nice "build/fuzz/tests/$target" -max_total_time="$fuzz_seconds" -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="$logs/crash-$name-" "$work" >"$logs/$target.log" 2>&1
    local status=$?
    rm -rf "$work"
    echo "$status" >"$logs/$target.status"
}
fuzz_result() {
    tail -n 25 "$logs/$1.log"
    return "$(cat "$logs/$1.status" 2>/dev/null || echo 1)"
}
export -f fuzz_one
export logs fuzz_seconds

title "set-up"
setup_build
setup_tests
say "compiler $(cc --version | head -n 1); clang: ${CLANG:-none}; python: ${PYTHON:-none}"
options=(-DFATHOM_WERROR=ON -DFATHOM_TESTS=ON)
[ -z "$PYTHON" ] || options+=("-DPython3_EXECUTABLE=$PYTHON")

title "release build, warnings are errors"
build build-release release "" || finish

title "tests: unit, ops, golden, api, fuzz replay"
for label in unit ops golden fuzz api; do
    run_ctest "ctest-$label" build/release -L "^$label\$"
done

title "scripts"
scripts_ok() {
    have shellcheck || { echo "shellcheck is not installed"; return 77; }
    shellcheck -x demo.sh test.sh tools/setup.sh .ci/run
}
check shellcheck scripts_ok
check selftest build/release/fathom selftest
if [ -n "$long" ]; then
    title "KV state: a million tokens; 20,000 scripts against a plain computation; every length"
    check kv-million-tokens build/release/tests/bench_kv_store --tokens 1048576
    check kv-lengths env FATHOM_TEST_LONG=1 build/release/tests/test_engine_reuse
    check kv-scripts env FATHOM_TEST_LONG=1 build/release/tests/test_engine_scripts
fi

title "clients: released agents and SDKs against the server, nothing but loopback"
clients_ready() { setup_clients || return 77; }
if check clients-setup clients_ready; then
    grep -h '^NOT INSTALLED' "$logs/clients-setup.log" | sed 's/^/    /'
    run_ctest ctest-clients build/release -L '^clients$' --test-output-size-passed 65536
    if [ -n "$long" ]; then # eight of them wait 330 s for a prompt to be read
        run_ctest ctest-clients-long build/release -L '^clients-long$' -j 8 --test-output-size-passed 65536
    fi
    sed -n 's/^.*skipped: \(.*\)$/    SKIPPED: \1/p' "$logs"/ctest-clients*.xml
    say "    clients that passed:"
    sed -n 's/^.*passed: \(.*\)$/    - \1/p' "$logs"/ctest-clients*.xml
fi

title "address and undefined-behaviour sanitizers"
if build build-asan asan ""; then
    if [ -n "$long" ]; then
        run_ctest ctest-asan build/asan -L '^(unit|ops|golden|fuzz|api)$'
    else
        run_ctest ctest-asan build/asan -L '^(unit|ops|fuzz)$' -E '^check_'
        FATHOM_TEST_SCRIPTS=16 run_ctest ctest-asan-reuse build/asan -R '^test_engine_(reuse|scripts)$'
        run_ctest ctest-asan-api build/asan -R '^api_test_(files|jsonl|plan|usage|serve_(streams|rules|sched|security))$'
    fi
fi

title "thread sanitizer"
tsan='^test_(base_team|server_sched|backend_(linear|attn|moe)|kv_(pool|real|store)|text_load|engine_(session|scripts))$'
if build build-tsan tsan ""; then
    if [ -n "$long" ]; then
        run_ctest ctest-tsan build/tsan -L '^(unit|ops|golden)$' -E '^check_'
        run_ctest ctest-tsan-api build/tsan -R '^api_test_serve_(streams|rules|sched|security|load|constrained)$'
    else
        FATHOM_TEST_SCRIPTS=8 run_ctest ctest-tsan build/tsan -L '^(unit|ops|golden)$' -R "$tsan"
    fi
fi

title "arm64: cross compiled, run by qemu"
arm64_ready() { setup_arm64 || return 77; }
arm64_tiers='^test_(backend_(act8|kern|rows|cpu|linear|moe|attn)|engine_bits)$'
if check arm64-setup arm64_ready; then
    if [ -n "$long" ]; then
        build build-arm64 arm64 "" &&
            run_ctest ctest-arm64 build/arm64 -L '^(unit|ops|golden)$' -E '^check_|^golden_test_'
        for cpu in cortex-a53 cortex-a76; do # plain NEON, dot products; the default has i8mm
            build "build-arm64-$cpu" arm64 "" -DFATHOM_QEMU_CPU=$cpu &&
                run_ctest "ctest-arm64-$cpu" build/arm64 -R "$arm64_tiers"
        done
    else
        build build-arm64 arm64 "test_backend_act8 test_backend_kern test_backend_linear test_engine_bits" &&
            run_ctest ctest-arm64 build/arm64 -R '^test_(backend_(act8|kern|linear)|engine_bits)$'
    fi
fi

title "Metal: the kernels on an emulated device"
metal_ready() { setup_metal || return 77; }
if check metal-setup metal_ready; then
    metal_tests="test_metal_ops_linear test_metal_ops_moe test_metal_ops_attn test_metal_golden test_metal_mini test_metal_flash test_metal_selftest"
    if [ -n "$long" ]; then # every order, recipe and planted bug, and all of it under both sanitizers
        for preset in metal metal-asan metal-tsan; do
            build "build-$preset" $preset "$metal_tests" &&
                FATHOM_TEST_LONG=1 run_ctest "ctest-$preset" build/$preset -L '^metal(-long)?$'
        done
    else
        build build-metal metal "$metal_tests" && run_ctest ctest-metal build/metal -L '^metal$'
    fi
fi

title "clang"
if [ -n "$CLANG" ]; then
    if dir=clang build build-clang release "" -B build/clang -DCMAKE_C_COMPILER="$CLANG"; then
        run_ctest ctest-clang build/clang -L '^(ops|golden)$' -E 'factory_mini|engine_equal'
    fi
    title "fuzzing, $fuzz_seconds s a target"
    fuzz_targets=""
    for target in tests/fuzz/fuzz_*.c; do
        target=${target##*/}
        fuzz_targets="$fuzz_targets ${target%.c}"
    done
    if build build-fuzz fuzz "$fuzz_targets" -DCMAKE_C_COMPILER="$CLANG"; then
        # shellcheck disable=SC2086
        printf '%s\n' $fuzz_targets | xargs -P "$(n_cores)" -I{} bash -c 'fuzz_one "$1"' _ {}
        for target in $fuzz_targets; do
            check "$target" fuzz_result "$target"
        done
    fi
else
    skipped=$((skipped + 2))
    say "skipped  clang build and fuzzing: no clang with the fuzzer runtime"
fi

finish
