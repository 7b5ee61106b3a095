#!/usr/bin/env bash
# demo.sh - installs what is missing, builds the program, and asks the mini model inside it the
# kinds of things it was trained on. Takes about a minute on a laptop; needs no model file.
set -eu
cd "$(dirname "$0")"
# shellcheck source=tools/setup.sh
. tools/setup.sh

case "${1:-}" in
"") ;;
-h | --help)
    say "usage: ./demo.sh    installs what is missing, builds, and shows the embedded mini model"
    exit 0
    ;;
*) die "unknown option $1 (./demo.sh --help)" ;;
esac

setup_build
say "Building build/release/fathom ..."
mkdir -p build
{
    cmake --preset release &&
        cmake --build --preset release --target fathom
} >build/demo-build.log 2>&1 || { tail -n 40 build/demo-build.log >&2; die "the build failed (build/demo-build.log)"; }

unset FATHOM_MODEL
fathom=build/release/fathom
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' cyan=$'\e[36m' plain=$'\e[0m'
else
    bold="" dim="" cyan="" plain=""
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sha256() { if have sha256sum; then sha256sum; else shasum -a 256; fi; }

# ask TITLE QUESTION [OPTION...]: shows question, reasoning if any, answer.
ask() {
    local title=$1 question=$2
    shift 2
    printf '\n%s%s%s\n' "$bold" "$title" "$plain"
    if [ ${#question} -gt 240 ]; then
        printf '%s> %s ... %s%s\n' "$cyan" "${question:0:100}" "${question: -80}" "$plain"
    else
        printf '%s> %s%s\n' "$cyan" "$question" "$plain"
    fi
    answer=$(printf '%s' "$question" |
        "$fathom" run -f - --temp 0 -n 200 --show-reasoning "$@" 2>"$work/err") || {
        cat "$work/err" >&2
        exit 1
    }
    sed '/^fathom: /d; /^$/d' "$work/err" | while IFS= read -r line; do
        printf '%s(%s)%s\n' "$dim" "$line" "$plain"
    done
    printf '%s\n' "$answer"
}

printf '%sfathom%s: a 12-million-parameter model with the architecture of DeepSeek V4 Flash,\n' "$bold" "$plain"
say "inside the program. It knows a tiny world: stories, sums, lists, facts from a text, tool calls."

# A text of about 1200 tokens with one fact near its beginning.
long_text() {
    local animals=(cat dog fox duck horse cow rabbit frog bird fish)
    local places=(park school garden house river market library forest kitchen beach)
    local things=(shell drum map bag bell key coin box cup lamp)
    local foods=(rice bread milk soup tea cake corn)
    local i a b
    printf 'Read this text. It was a new day. The park was old. Rosa has number 728. '
    for ((i = 0; i < 36; i++)); do
        a=$((i * 7 % 10)) b=$(((i * 3 + i / 10) % 10))
        printf 'The %s saw a %s. There was a %s near the %s. People like %s in the %s. ' "${animals[a]}" \
            "${animals[b]}" "${things[b]}" "${places[a]}" "${foods[i % 7]}" "${places[b]}"
        printf 'They sold %s and a %s. ' "${foods[(i + 3) % 7]}" "${things[a]}"
    done
    printf 'Which number has Rosa?'
}

cat >"$work/tools.json" <<'JSON'
[{"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
 {"type": "function", "function": {"name": "read_file", "description": "Read a file",
  "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}]
JSON

ask "A story" "Tell me a story about Rosa and a drum." --think off
ask "A sum, with reasoning" "What is 3 * 6?" --think on
ask "A fact from a long text" "$(long_text)" --think off
ask "A tool call" "Tell me the weather in Oslo." --think off --tools "$work/tools.json"

printf '\n%sThe same bits%s whatever the chunk size and the number of threads (SHA-256 of all logits):\n' "$bold" "$plain"
for opt in "--chunk 1 --threads 1" "--chunk 7 --threads 2" "--chunk 256"; do
    # shellcheck disable=SC2086
    printf '  %-24s %s\n' "$opt" "$("$fathom" logits --ids 0,2290,54,71,291,460,1238,2291,2293,49,291,1013 \
        --all --json $opt 2>/dev/null | sha256 | cut -c1-32)"
done

printf '\n%sWhat a real model would need%s (fathom plan --shape flash --recipe q2 --ctx 1m):\n' "$bold" "$plain"
"$fathom" plan --shape flash --recipe q2 --ctx 1m
printf '\nNext: %sbuild/release/fathom chat%s, or build/release/fathom --help\n' "$bold" "$plain"
