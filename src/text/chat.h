/* text/chat.h - a conversation as the text that models of the three phases are trained on:
 * "\n\nHuman: question\n\nAssistant: answer\n\nHuman: question\n\nAssistant:". Answers keep the space that they begin with.
 * Called by cli/cmd_chat.c. */
#ifndef TUNEUP_TEXT_CHAT_H
#define TUNEUP_TEXT_CHAT_H

#include <stddef.h>

#include "base/err.h"

#define CHAT_HUMAN "\n\nHuman:"
#define CHAT_ASSISTANT "\n\nAssistant:"

struct chat_turn {
    char *text; /* owned: question and answer in that form */
    size_t n;
};

struct chat {
    struct chat_turn *turns; /* owned */
    int n_turns, room;
};

/* A new turn, which waits for its answer. ERR_MEMORY, and *c is as it was, here and below. */
int chat_ask(struct chat *c, const char *question, size_t n, struct err *err);
/* More of the last turn's answer. */
int chat_answer(struct chat *c, const char *text, size_t n, struct err *err);
void chat_drop_first(struct chat *c);
void chat_drop_last(struct chat *c);
/* All of it, from mem_array: the caller frees. */
char *chat_text(const struct chat *c, size_t *n, struct err *err);
void chat_free(struct chat *c);

#endif
