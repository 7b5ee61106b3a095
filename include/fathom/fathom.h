/* fathom.h - the public interface of libfathom: run DeepSeek V4 models from GGUF files.
 *
 * Objects. A fathom_engine is an open model on one backend: weights, recorded programs, the
 * pool of KV memory; immutable after open. A fathom_session is one sequence of tokens with its
 * KV state. The caller always hands over the WHOLE token prefix; the session reuses what it can
 * and computes the rest.
 *
 * Threads. One thread at a time may call the functions of an engine and of its sessions
 * ("engine thread"). Exceptions, callable from any thread: fathom_session_cancel, the tokenizer
 * functions, fathom_engine_info, fathom_status_text and everything that takes neither engine
 * nor session.
 *
 * Errors. Functions return 0 or a negative fathom_status and fill `err` (may be NULL) with
 * place, reason and remedy. After an error the objects stay valid and unchanged unless stated.
 * The library never exits and never prints (it logs through fathom_set_log).
 *
 * Determinism. The logits of a token depend on the tokens before it only: the same bits for any
 * chunk size, batch, thread count or reuse, on one backend's arithmetic class
 * (fathom_engine_info).
 *
 * Units: sizes in bytes are named *_bytes, positions and counts are in tokens, times in
 * seconds. */
#ifndef FATHOM_FATHOM_H
#define FATHOM_FATHOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FATHOM_API __attribute__((visibility("default")))
#else
#define FATHOM_API
#endif

/* ---- errors ---- */

/* The command line maps these to exit codes: EFORMAT and ENOENT 3, EINVAL 2, everything else 1.
 */
enum fathom_status {
    FATHOM_OK = 0,
    FATHOM_EINVAL = -1,  /* an argument is wrong */
    FATHOM_ENOMEM = -2,  /* memory: not available, or more than the budget allows */
    FATHOM_EIO = -3,     /* the system refused a read, write or map */
    FATHOM_EFORMAT = -4, /* an input file or text is not usable */
    FATHOM_ENOENT = -5,  /* an input file is not there */
    FATHOM_ELIMIT = -6,  /* a limit was reached: context length, sequence count, size cap */
    FATHOM_ECANCEL = -7, /* cancelled by the caller */
    FATHOM_EUNSUPPORTED = -8, /* understood, but this build, backend or file cannot do it */
};

/* What went wrong, for a person: place, reason, remedy. Filled once, by the deepest frame that
 * knows; code is 0 while nothing is wrong. Owned by the caller, usually on its stack: {0}. */
typedef struct fathom_err {
    int code;
    char msg[1024];
} fathom_err;

FATHOM_API const char *fathom_version(void);
FATHOM_API const char *fathom_status_text(int status);
/* Replaces the log sink (default: stderr, warnings and errors). level 0 error .. 3 debug; lines
 * above max_level are dropped; fn NULL restores stderr. */
FATHOM_API void fathom_set_log(void (*fn)(void *user, int level, const char *line), void *user,
                               int max_level);

/* ---- engine ---- */

typedef struct fathom_engine fathom_engine;
typedef struct fathom_session fathom_session;

/* Progress of something slow. stage is static text ("load", "prefill"); return false to cancel.
 */
typedef bool (*fathom_progress_fn)(void *user, const char *stage, uint64_t done,
                                   uint64_t total);

/* Zero-initialise; 0 / NULL means the default. */
typedef struct fathom_engine_options {
    const char *model_path; /* a GGUF (any part of a split set) ... */
    const void *model_data; /* ... or a GGUF in memory, 4096-aligned, outliving the engine */
    size_t model_bytes;
    const char *backend; /* "cpu", "ref", ...; default: best available */
    uint32_t n_threads;  /* default: all cores that this process may use */
    uint32_t max_ctx;    /* longest sequence; default: the model's limit, capped by memory */
    uint32_t max_seq;    /* sessions alive at once (state slots); default 4 */
    uint32_t chunk;      /* prefill tokens per step; default 256 */
    uint64_t kv_bytes; /* budget for KV pages and slots; default: what max_ctx and max_seq need,
                          capped by free memory */
    uint32_t page_tokens; /* tokens per KV page; default 2048 (tests use less) */
    bool sim_off;         /* F32 rows without the FP8/FP4 simulations (tests) */
    bool act_f32;         /* F32 activations everywhere (oracle runs) */
    uint32_t cpu_mask;    /* CPU tiers that may be used; 0 = all */
    bool pin; /* each CPU worker stays on one core (Linux; for a machine of one's own) */
    const char *debug; /* developer switches, comma separated */
    fathom_progress_fn progress;
    void *progress_user;
    /* KV state beyond one session. In RAM, what sessions computed stays until its memory is
     * needed, and any later session with the same beginning uses it. With a directory it also
     * outlives the process. */
    bool kv_no_share;        /* every session reuses its own tokens only, nothing is stored
                                (measurements, comparisons) */
    const char *kv_dir;      /* disk store, made if missing; NULL: none. A directory that cannot
                                be used is no error: fathom_engine_kv says why it is off */
    uint64_t kv_disk_bytes;  /* budget for all files in kv_dir; default 16 GiB */
    double kv_flush_seconds; /* longest that closing the engine may go on writing; default 5,
                                negative: not at all */
    int32_t kv_save_ms; /* state is written if computing the prompt up to there again would take
                                this long, or if it was used again; default 500; -1: always */
} fathom_engine_options;

/* Opens a model. Memory is planned first: a request that cannot fit is refused with
 * FATHOM_ENOMEM, the numbers and the lever to pull, before anything is allocated. */
FATHOM_API int fathom_engine_open(fathom_engine **out, const fathom_engine_options *opt,
                                  fathom_err *err);
/* All sessions must be freed before. NULL is fine. */
FATHOM_API void fathom_engine_close(fathom_engine *e);

typedef struct fathom_info {
    const char *model_name, *backend, *arith_class, *device_name; /* owned by the engine */
    const char *release;       /* chat format: "preview" or "0731" */
    const char *weight_format; /* of most bytes of the weights: "Q8_0", ... */
    uint32_t n_vocab, n_layer, max_ctx, max_seq, chunk;
    bool has_tokenizer;
    uint64_t weight_bytes, kv_budget_bytes, kv_used_bytes, scratch_bytes;
    double load_seconds;
} fathom_info;
FATHOM_API void fathom_engine_info(const fathom_engine *e, fathom_info *out);

/* ---- what is kept of earlier tokens ---- */

/* Why the known part of a prompt ended where it did. */
enum fathom_reuse_end {
    FATHOM_REUSE_ALL,      /* all of it is known (its last token is computed for the logits) */
    FATHOM_REUSE_NEW,      /* what is known ends here: the prompt goes on beyond it, or nothing
                              like it was seen */
    FATHOM_REUSE_DIVERGED, /* what is known goes on with another token */
    FATHOM_REUSE_EVICTED,  /* it was known and had to make room */
    FATHOM_REUSE_BAD_FILE, /* a stored file failed its checks, and is not tried again */
    FATHOM_REUSE_IO_ERROR, /* the disk refused, or was slower than computing again */
    FATHOM_REUSE_IDENTITY, /* the directory holds only state of other models or versions */
    FATHOM_REUSE_SALT,     /* known, but of an owner who does not share it. For the operator:
                              telling the client of one owner would reveal what another asked */
    FATHOM_REUSE_BUDGET,   /* no room in memory, or on disk when it should have been written */
    FATHOM_REUSE_NO_FILE,  /* nothing stored goes on from here */
    FATHOM_REUSE_END_COUNT
};
FATHOM_API const char *fathom_reuse_end_name(enum fathom_reuse_end end); /* "diverged", ... */

enum fathom_disk_state { FATHOM_DISK_OFF, FATHOM_DISK_READ_ONLY, FATHOM_DISK_WRITER };
/* State and counters since the engine was opened. */
typedef struct fathom_kv_info {
    /* memory, in bytes; their sum never exceeds budget_bytes */
    uint64_t budget_bytes, page_bytes, slot_bytes, frontier_bytes, staging_bytes;
    uint32_t shared_pages; /* pages in the prefix index; of them only there: */
    uint32_t idle_pages;   /* evicted when memory is needed */
    uint64_t evicted_pages;
    /* tokens of all fathom_session_set calls, as in fathom_reuse, and their ends */
    uint64_t n_sets, ram, disk, rerun, computed, ends[FATHOM_REUSE_END_COUNT];
    /* disk */
    enum fathom_disk_state disk_state;
    char disk_reason[256]; /* why it is not a writer; "" if it is, or if there is no kv_dir */
    bool disk_paused;      /* writing waits: no space left, or errors */
    uint64_t disk_budget_bytes, disk_used_bytes, disk_written_bytes, disk_loaded_bytes;
    uint64_t disk_written_files, disk_write_errors, disk_load_failures, disk_evicted_files;
    uint32_t disk_queued, disk_bad; /* waiting to be written; names known as bad */
} fathom_kv_info;
/* Engine thread. */
FATHOM_API void fathom_engine_kv(const fathom_engine *e, fathom_kv_info *out);
/* Drops what only the prefix index keeps in RAM; the disk is not touched. */
FATHOM_API void fathom_engine_kv_drop(fathom_engine *e);
/* Waits until what is queued for the disk is written, at most max_seconds; true: it is. Not for
 * the token loop. */
FATHOM_API bool fathom_engine_kv_flush(fathom_engine *e, double max_seconds);

/* ---- memory plan (no weights are loaded) ---- */

typedef struct fathom_plan {
    uint64_t weight_bytes, scratch_bytes, slot_bytes, page_bytes;
    uint64_t rows_bytes;     /* compressed and index rows of ctx tokens */
    uint64_t kv_bytes;       /* pages and state slot of one sequence of ctx tokens */
    uint64_t frontier_bytes; /* one frontier copy at ctx */
    uint64_t total_bytes;    /* weights + scratch + kv x n_seq */
    uint64_t memory_bytes, available_bytes; /* of this machine */
    uint32_t ctx, n_seq,
        max_ctx_fits; /* largest context that fits beside the weights; 0 none */
    bool fits;
    char advice[512]; /* the lever to pull if not */
} fathom_plan;
/* Either opt->model_path / model_data, or shape ("flash", "pro") with recipe ("q2", "q4",
 * "mxfp4", ...). */
FATHOM_API int fathom_plan_make(fathom_plan *out, const fathom_engine_options *opt,
                                const char *shape, const char *recipe, uint32_t ctx,
                                fathom_err *err);

/* ---- tokens (any thread) ---- */

/* Untrusted text gives ordinary ids only; trusted text also control tokens (templates, tests).
 * Returns ids in *out (free with fathom_free). FATHOM_EUNSUPPORTED if the model has no
 * tokenizer. */
FATHOM_API int fathom_tokenize(const fathom_engine *e, const char *text, size_t n, bool trusted,
                               uint32_t **out, size_t *n_out, fathom_err *err);
/* Raw bytes of one token; NULL / 0 for unknown ids. */
FATHOM_API const char *fathom_token_bytes(const fathom_engine *e, uint32_t id, size_t *n);
FATHOM_API bool fathom_token_is_control(const fathom_engine *e, uint32_t id);
FATHOM_API int32_t fathom_token_eos(const fathom_engine *e); /* -1 without tokenizer */
FATHOM_API void fathom_free(void *p);

/* ---- sessions ---- */

FATHOM_API int fathom_session_new(fathom_session **out, fathom_engine *e, fathom_err *err);
/* Who a session shares state with, and whether it leaves any. Zero-initialise. */
typedef struct fathom_session_options {
    /* Only sessions with equal owner (say, a digest of an API key) and equal salt (a request's
     * own wish) see each other's state. Both empty: shared by all such. A salt can narrow
     * sharing, never widen it. */
    const void *owner, *salt;
    size_t owner_bytes, salt_bytes;
    bool no_store; /* nothing of it is written to disk */
    bool no_reuse; /* neither uses nor leaves anything: it computes every token itself */
} fathom_session_options;
/* opt NULL: as fathom_session_new. */
FATHOM_API int fathom_session_open(fathom_session **out, fathom_engine *e,
                                   const fathom_session_options *opt, fathom_err *err);
/* Ends it. What it computed stays in RAM until the memory is needed, and what is worth it goes
 * to the disk in the background. */
FATHOM_API void fathom_session_free(fathom_session *s);
/* A copy that shares full pages: both can go on in different directions. Cut to n tokens. */
FATHOM_API int fathom_session_fork(fathom_session **out, fathom_session *s, uint32_t n,
                                   fathom_err *err);

/* Tokens whose KV state is computed, and the ids of all tokens, pending ones included (valid
 * until the next call on s). After a set or rewind that reports rerun > 0, len lies that much
 * below the tokens kept: they are pending again, come first in the next steps, and have no
 * logits. */
FATHOM_API uint32_t fathom_session_len(const fathom_session *s);
FATHOM_API const uint32_t *fathom_session_ids(const fathom_session *s);

/* How the last fathom_session_set / _sync used what was there: the session's own tokens, those
 * of other sessions, pages in RAM that no session holds, and the disk.
 * kept + rerun + computed = n. */
typedef struct fathom_reuse {
    uint32_t matched;  /* ids known from before */
    uint32_t kept;     /* state kept or restored without computing (<= matched) */
    uint32_t rerun;    /* matched tokens that had to be computed again */
    uint32_t computed; /* new tokens */
    uint32_t frontier; /* position of the frontier used, 0 if none */
    uint32_t ram,
        disk; /* tokens whose rows came from memory and from files; their sum is kept +
                           rerun */
    enum fathom_reuse_end end; /* why no more matched */
    uint32_t want, have; /* DIVERGED: the prompt's id at position `matched`, and the one that
                                  is known there; UINT32_MAX: not established (fathom_session_
                                  explain looks) */
    float load_ms;       /* time spent reading files */
} fathom_reuse;

/* Makes ids[0..n) the target: continues from the longest known prefix of it, wherever that is
 * (see fathom_reuse), and queues the rest; computes nothing, but may read from the disk. What
 * the session held before stays known. At least the last token is queued. FATHOM_ELIMIT (before
 * anything changes) if n exceeds max_ctx or the KV budget. */
FATHOM_API int fathom_session_set(fathom_session *s, const uint32_t *ids, uint32_t n,
                                  fathom_reuse *reuse, fathom_err *err);
/* Queues more tokens behind the target. */
FATHOM_API int fathom_session_append(fathom_session *s, const uint32_t *ids, uint32_t n,
                                     fathom_err *err);
/* Tokens of the target that are not computed: those to be run again, then the new ones. */
FATHOM_API uint32_t fathom_session_pending(const fathom_session *s);
/* Forgets all tokens from n on (n <= len); what is kept stays exact. Pending tokens are
 * dropped. May have to compute up to max(127, layers x 127) tokens again on the next step;
 * reuse says so. */
FATHOM_API int fathom_session_rewind(fathom_session *s, uint32_t n, fathom_reuse *reuse,
                                     fathom_err *err);
/* Keeps a copy of what a later rewind to this place needs (a frontier at the last multiple of
 * the largest ratio); called at turn starts. At most 8 are kept, the oldest goes first. */
FATHOM_API int fathom_session_checkpoint(fathom_session *s, fathom_err *err);

/* Offers the session's state to the disk store: full pages, its two newest frontiers and the
 * lowest one. For a conversation that is idle; fathom_session_free does it too. Returns at
 * once, writing goes on in the background. Nothing happens without a store. */
FATHOM_API void fathom_session_save(fathom_session *s);
/* One or more lines for a person: what the last fathom_session_set reused, and, where the known
 * tokens went on differently, the text around that place (if the model has a tokenizer; reads
 * one file's header if only the disk knows). Writes at most n bytes with the NUL; returns the
 * length without it. */
FATHOM_API size_t fathom_session_explain(fathom_session *s, char *out, size_t n);

/* Asks the running or next call on s to stop with FATHOM_ECANCEL; finished chunks are kept. Any
 * thread. */
FATHOM_API void fathom_session_cancel(fathom_session *s);

/* Set + compute all: afterwards the logits of the last token are there. progress (may be NULL)
 * is called after every chunk. */
FATHOM_API int fathom_session_sync(fathom_session *s, const uint32_t *ids, uint32_t n,
                                   fathom_progress_fn progress, void *user, fathom_reuse *reuse,
                                   fathom_err *err);

/* ---- steps: several sessions at once ---- */

enum fathom_want { FATHOM_WANT_NONE, FATHOM_WANT_LAST, FATHOM_WANT_ALL };
typedef struct fathom_work {
    fathom_session *session; /* each session at most once per step */
    uint32_t n_tok; /* pending tokens to compute now; the sum over all work fits `chunk` */
    enum fathom_want want; /* which rows get logits */
} fathom_work;
/* Computes one step. On error no session has advanced. */
FATHOM_API int fathom_step(fathom_engine *e, const fathom_work *work, uint32_t n_work,
                           fathom_err *err);

/* Logits of the i-th wanted row of the session's last step (0 .. n-1; WANT_LAST: i = 0);
 * n_vocab floats, valid until the next step. NULL if there are none. */
FATHOM_API const float *fathom_session_logits(const fathom_session *s, uint32_t i);

/* ---- sampling ---- */

typedef struct fathom_sampling {
    float temperature;    /* 0: greedy */
    uint32_t top_k;       /* 0: off */
    float top_p;          /* 1 (or 0): off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1 (or 0): off; divides positive, multiplies negative logits of seen
                             tokens */
    float
        frequency_penalty;  /* subtracted per occurrence among the last penalty_window tokens */
    float presence_penalty; /* subtracted once if present */
    uint32_t penalty_window; /* default 64 */
    uint64_t seed; /* same seed, same logits: same tokens; position-based, so a retry repeats */
    uint32_t n_logprobs; /* alternatives to report, at most 20 */
} fathom_sampling;

typedef struct fathom_logprob {
    uint32_t id;
    float logprob; /* natural log, of the unmodified distribution (before temperature,
                      penalties) */
} fathom_logprob;
typedef struct fathom_choice {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    fathom_logprob top[20];
} fathom_choice;

/* Chooses the next token from the last step's last logits row. Order: mask, penalties,
 * temperature, top-k, top-p, min-p, draw. mask: bit i%32 of word i/32 allows token i; NULL
 * allows all. FATHOM_EINVAL if no token is allowed or there are no logits. Does not append. */
FATHOM_API int fathom_session_sample(fathom_session *s, const fathom_sampling *p,
                                     const uint32_t *mask, fathom_choice *out, fathom_err *err);

/* Stop strings over a byte stream: feed returns the bytes that may be released (none of them
 * can belong to a stop string), *hit tells that one was found: the bytes before it have then
 * all been released. */
typedef struct fathom_stop fathom_stop;
FATHOM_API fathom_stop *fathom_stop_new(const char *const *strings,
                                        size_t n); /* NULL: no memory */
FATHOM_API void fathom_stop_free(fathom_stop *st);
FATHOM_API const char *fathom_stop_feed(fathom_stop *st, const char *bytes, size_t n,
                                        size_t *n_out, bool *hit);
FATHOM_API const char *fathom_stop_flush(fathom_stop *st, size_t *n_out);

/* ---- one call for a whole answer ---- */

enum fathom_finish {
    FATHOM_FINISH_EOS,
    FATHOM_FINISH_LENGTH,
    FATHOM_FINISH_STOP,
    FATHOM_FINISH_CALLER
};
typedef struct fathom_generate_options {
    fathom_sampling sampling;
    uint32_t max_tokens;     /* 0: up to the context's end */
    const char *const *stop; /* n_stop strings */
    size_t n_stop;
    fathom_progress_fn progress; /* prefill */
    void *progress_user;
    /* For every token before it is computed further: its choice and its raw bytes. Return false
     * to end the answer after it (FATHOM_FINISH_CALLER). */
    bool (*on_token)(void *user, const fathom_choice *choice, const char *bytes, size_t n);
    /* Text with stop strings removed and incomplete code points held back; NULL if not wanted.
     */
    void (*on_text)(void *user, const char *text, size_t n);
    void *user;
} fathom_generate_options;
typedef struct fathom_result {
    enum fathom_finish finish;
    uint32_t n_prompt, n_generated;
    fathom_reuse reuse;
    double prefill_seconds, decode_seconds;
} fathom_result;
/* ids: the whole prompt. The session afterwards holds prompt and answer (its last token
 * possibly pending). */
FATHOM_API int fathom_generate(fathom_session *s, const uint32_t *ids, uint32_t n,
                               const fathom_generate_options *opt, fathom_result *out,
                               fathom_err *err);

#ifdef __cplusplus
}
#endif
#endif
