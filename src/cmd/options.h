/* options.h - the one table of commands and options. It drives parsing, --help, the man page
 * and shell completion, so none of them can disagree with another. Values are stored by offset
 * into struct cli; strings are borrowed from argv. */
#ifndef CMD_OPTIONS_H
#define CMD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_MAX_LIST = 64, CLI_MAX_ARGS = 32 };

struct command;

/* An option that may be given several times. */
struct cli_list {
    const char *v[CLI_MAX_LIST];
    uint32_t n;
};

/* What the command line said. 0 / NULL where an option was not given, unless main.c's defaults
 * (cli_init) say otherwise. */
struct cli {
    const struct command *cmd;
    const char *args[CLI_MAX_ARGS]; /* positional */
    uint32_t n_args;
    const char *model, *backend, *sim, *act, *debug;
    uint32_t threads, chunk, cpu_mask;
    uint32_t ctx;
    const char *prompt, *file, *system, *tools, *think, *release;
    struct cli_list stop, rules;
    uint32_t n_predict, top_k;
    double temp, top_p, min_p;
    uint64_t seed;
    bool seed_given;
    const char *kv_dir;  /* "none": no disk store */
    uint64_t kv_disk;    /* bytes */
    double kv_flush;     /* seconds */
    const char *salt;    /* kv */
    uint32_t older_than; /* days */
    bool tree, text, delete_bad;
    bool new_chat;
    const char *output, *recipe, *shape, *ids;
    uint32_t sequences, tokens;
    int32_t layer;
    /* bench */
    const char *synthetic, *ratios, *save, *frontiers, *formats;
    uint32_t layers, experts, vocab, gen, prefill;
    uint64_t kv_memory; /* bytes */
    bool kernels, fill, standard, decode_only, csv;
    /* convert */
    const char *dense, *imatrix;
    double shrink;
    bool imatrix_strict, no_mtp;
    /* imatrix */
    uint32_t window, skip_prompts, limit_prompts, save_minutes;
    uint64_t limit_tokens;
    bool merge;
    /* eval */
    const char *against, *reference, *save_reference, *cases, *tasks, *official, *floor, *rows;
    uint32_t limit, every;
    int32_t overlap, keep; /* -1: not given */
    /* serve */
    const char *host, *socket, *api_key_file, *allowed_hosts, *cors_origin, *alias, *trace,
        *script;
    struct cli_list api_keys;
    uint32_t port, parallel, queue, connections, body_mb, reasoning_limit;
    double keepalive, header_seconds, idle_seconds, stall;
    bool insecure_no_auth, metrics, strict_model, image_placeholder, special_tokens, quiet;
    bool show_reasoning, raw, json, jsonl, all, check, plain, lenient, decode, operands, pin,
        dry_run, help;
};

enum option_type {
    OPTION_FLAG,   /* bool */
    OPTION_STR,    /* const char * */
    OPTION_LIST,   /* struct cli_list */
    OPTION_CHOICE, /* const char *, one of `choices` */
    OPTION_U32,    /* 0x.., k and m suffixes (1024) are understood */
    OPTION_I32,
    OPTION_U64,
    OPTION_BYTES, /* uint64_t; k, m, g, t suffixes (1024) are understood */
    OPTION_NUM,   /* double in [lo, hi] */
};

/* Commands an option belongs to. */
enum {
    CMD_RUN = 1,
    CMD_CHAT = 2,
    CMD_CONVERT = 4,
    CMD_INSPECT = 8,
    CMD_PLAN = 16,
    CMD_EXPLAIN = 32,
    CMD_TOKENS = 64,
    CMD_RENDER = 128,
    CMD_PARSE = 256,
    CMD_LOGITS = 512,
    CMD_SELFTEST = 1024,
    CMD_HELP = 2048,
    CMD_BENCH = 4096,
    CMD_KV = 8192,
    CMD_IMATRIX = 16384,
    CMD_EVAL = 32768,
    CMD_SERVE = 65536,
    CMD_ANSWER = CMD_RUN | CMD_CHAT,
    CMD_ENGINE = CMD_ANSWER | CMD_LOGITS | CMD_BENCH | CMD_IMATRIX | CMD_SERVE | CMD_EVAL,
    CMD_PARTS = CMD_TOKENS | CMD_RENDER | CMD_PARSE,
    CMD_ALL = 131071
};

struct option_def {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    enum option_type type;
    size_t offset; /* in struct cli */
    uint32_t commands;
    const char *arg;     /* name of the value in help; NULL for flags */
    const char *choices; /* "on|off" */
    double lo, hi; /* OPTION_NUM; hi also limits OPTION_U32 and the length of OPTION_LIST */
    const char *help;
};

struct command {
    const char *name;
    uint32_t bit;
    int (*fn)(struct cli *);
    const char *args; /* positional arguments in help, "" if none */
    uint32_t min_args, max_args;
    const char *summary; /* one line */
    const char *text;    /* a paragraph or two */
};

extern const struct command cli_commands[];
extern const size_t cli_n_commands;
extern const struct option_def cli_options[];
extern const size_t cli_n_options;

const struct command *cli_command(const char *name); /* NULL if unknown */
void cli_init(struct cli *o, const struct command *cmd);
/* Parses the words after the command's name; prints what is wrong and returns EXIT_USAGE. */
int cli_parse(struct cli *o, int argc, char **argv);

#endif
