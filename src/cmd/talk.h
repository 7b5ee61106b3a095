/* talk.h - conversations of `fathom chat` on disk, so that the next start goes on where the last
 * one ended. One file a conversation, fathom/chat/ID.jsonl in the cache folder, mode 0600 in a
 * folder of mode 0700: a first line {"fathom":"chat","version":1,"model":NAME}, then one message
 * a line in the form of `fathom render`. Lines are only ever appended; a line that was cut off
 * by a crash is dropped. An open file is locked, so that two programs never write into one.
 *
 * ID is the time of the beginning (UTC) and the process number: names sort by age. What cannot
 * be read or written is reported once and never stops a chat. */
#ifndef CMD_TALK_H
#define CMD_TALK_H

#include "chat/message.h"

struct talk {
    struct buf dir;    /* empty: nothing is kept */
    char id[32];       /* "" until the first message was written */
    int fd;            /* of the current file; -1: none */
    size_t n_saved;    /* messages of the conversation that the file holds */
    const char *model; /* borrowed; conversations of other models are listed, not resumed */
};

struct talk_entry {
    char id[32];
    char model[64];
    char first[64]; /* beginning of the first user message, one line */
    uint32_t n_msg; /* user and assistant messages */
};
enum { TALK_LIST = 100 };

/* dir: where; empty: keep nothing. Makes the folder; if it cannot be used or belongs to somebody
 * else, says so and keeps nothing. */
void talk_open(struct talk *t, struct slice dir, const char *model);
void talk_close(struct talk *t); /* ends the current file, too */

/* Appends the messages from n_saved on; begins a file if there is none. */
void talk_save(struct talk *t, const struct chat_conversation *c);
/* The next save begins another file. */
void talk_new(struct talk *t);
/* Deletes the current file. false: it could not be deleted. */
bool talk_forget(struct talk *t);

/* Newest first, at most TALK_LIST; returns their number. */
size_t talk_list(const struct talk *t, struct talk_entry *out);
/* Reads a conversation into *c (made by chat_init, empty) and goes on writing into its file.
 * FATHOM_ENOENT: no such one; FATHOM_ELIMIT: another program uses it; FATHOM_EFORMAT. On error
 * the current file stays what it was; *c may have messages. */
int talk_resume(struct talk *t, const char *id, struct chat_conversation *c, fathom_err *err);

#endif
