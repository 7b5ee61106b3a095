# bash completion of fathom (generated: fathom help bash)
_fathom()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "run chat serve convert imatrix inspect plan explain tokens render parse logits bench eval kv selftest help" -- "$cur"))
        return
    fi
    case "$prev" in
    --think) COMPREPLY=($(compgen -W "on off low high max" -- "$cur")); return ;;
    --release) COMPREPLY=($(compgen -W "preview 0731" -- "$cur")); return ;;
    --recipe) COMPREPLY=($(compgen -W "f32 f16 bf16 q8 q2 q2-q4tail q4 mxfp4" -- "$cur")); return ;;
    --synthetic) COMPREPLY=($(compgen -W "flash pro" -- "$cur")); return ;;
    --floor) COMPREPLY=($(compgen -W "act ref both" -- "$cur")); return ;;
    --dense) COMPREPLY=($(compgen -W "q8_0 q6_k q5_k q4_k" -- "$cur")); return ;;
    --shape) COMPREPLY=($(compgen -W "flash pro" -- "$cur")); return ;;
    --sim) COMPREPLY=($(compgen -W "on off" -- "$cur")); return ;;
    --act) COMPREPLY=($(compgen -W "a8 f32" -- "$cur")); return ;;
    esac
    case "$cur" in
    -*) ;;
    *) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case "${COMP_WORDS[1]}" in
    run) COMPREPLY=($(compgen -W "--model --prompt --file --system --tools --think --show-reasoning --raw --max-tokens --stop --temp --seed --top-k --top-p --min-p --release --ctx --kv-dir --kv-disk --kv-flush-seconds --backend --threads --chunk --sim --act --cpu-mask --pin --debug --json --help" -- "$cur")) ;;
    chat) COMPREPLY=($(compgen -W "--model --system --think --show-reasoning --max-tokens --temp --seed --top-k --top-p --min-p --release --ctx --kv-dir --kv-disk --kv-flush-seconds --new --backend --threads --chunk --sim --act --cpu-mask --pin --debug --help" -- "$cur")) ;;
    serve) COMPREPLY=($(compgen -W "--model --think --max-tokens --temp --release --host --port --socket --api-key --api-key-file --insecure-no-auth --allowed-hosts --cors-origin --parallel --queue --connections --body-limit --reasoning-limit --keepalive --header-timeout --idle-timeout --stall --alias --strict-model --image-placeholder --special-tokens --metrics --trace --script --quiet --ctx --kv-dir --kv-disk --kv-flush-seconds --backend --threads --chunk --sim --act --cpu-mask --pin --debug --help" -- "$cur")) ;;
    convert) COMPREPLY=($(compgen -W "--output --recipe --tensor --dense --no-mtp --imatrix --imatrix-strict --shrink --dry-run --threads --help" -- "$cur")) ;;
    imatrix) COMPREPLY=($(compgen -W "--model --file --raw --release --output --merge --window --skip-prompts --limit-prompts --limit-tokens --save-minutes --ctx --backend --threads --chunk --sim --act --cpu-mask --pin --debug --help" -- "$cur")) ;;
    inspect) COMPREPLY=($(compgen -W "--model --check --json --help" -- "$cur")) ;;
    plan) COMPREPLY=($(compgen -W "--model --recipe --shape --ctx --sequences --backend --chunk --sim --json --help" -- "$cur")) ;;
    explain) COMPREPLY=($(compgen -W "--model --recipe --shape --ctx --tokens --layer --operands --backend --sim --act --json --help" -- "$cur")) ;;
    tokens) COMPREPLY=($(compgen -W "--model --prompt --file --ids --decode --plain --jsonl --json --help" -- "$cur")) ;;
    render) COMPREPLY=($(compgen -W "--model --file --release --jsonl --json --help" -- "$cur")) ;;
    parse) COMPREPLY=($(compgen -W "--model --file --lenient --jsonl --json --help" -- "$cur")) ;;
    logits) COMPREPLY=($(compgen -W "--model --ids --all --ctx --backend --threads --chunk --sim --act --cpu-mask --pin --debug --json --help" -- "$cur")) ;;
    bench) COMPREPLY=($(compgen -W "--model --recipe --synthetic --layers --ratios --experts --vocab --save --frontiers --standard --fill --prefill --gen --kv-memory --kernels --formats --decode-only --csv --ctx --backend --threads --chunk --sim --act --cpu-mask --pin --debug --json --help" -- "$cur")) ;;
    eval) COMPREPLY=($(compgen -W "--model --file --seed --release --all --plain --window --cases --against --reference --save-reference --keep --floor --overlap --limit --rows --tasks --every --official --ctx --backend --threads --chunk --sim --act --cpu-mask --pin --debug --json --help" -- "$cur")) ;;
    kv) COMPREPLY=($(compgen -W "--model --all --dry-run --kv-dir --kv-disk --tree --text --delete-bad --salt --older-than --json --help" -- "$cur")) ;;
    selftest) COMPREPLY=($(compgen -W "--backend --threads --cpu-mask --debug --json --help" -- "$cur")) ;;
    help) COMPREPLY=($(compgen -W "--help" -- "$cur")) ;;
    esac
}
complete -o filenames -F _fathom fathom
