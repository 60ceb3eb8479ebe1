/* data/task_kind.h - what a kind of task is. Its question templates serve twice: filled with values they make a prompt,
 * and matched against a prompt they give the values back, so that the judge needs no second description.
 * Inside of data/task*.c only. */
#ifndef TUNEUP_DATA_TASK_KIND_H
#define TUNEUP_DATA_TASK_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/rng.h"

#define TASK_WORD_MAX 24
#define TASK_LIST_MAX 40
#define TASK_NUMBER_MAX 1000000 /* larger ones are not matched: products of three still fit */
#define TASK_WORDINGS 5
#define TASK_SLIPS 5

/* Placeholders in templates: {0} to {4} numbers, {M} number 1 in two digits, {A} to {D} words, {L} the list with commas;
 * in answers also {a} to {d}, results of the steps, {K} the key and {W} the working. */
struct task_values {
    int64_t number[5];
    char word[4][TASK_WORD_MAX];
    char list[TASK_LIST_MAX][TASK_WORD_MAX];
    int n_list;
    int64_t result[4];
    char key[TASK_LIST_MAX * (TASK_WORD_MAX + 2)];
    char work[TASK_LIST_MAX * 48]; /* the working of a list, written down */
    unsigned known_numbers, known_words; /* bits: given by the text being matched */
};

/* Text under construction; what would not fit is a bug. */
struct task_text {
    char s[32768];
    size_t n;
};

struct task_range {
    int64_t low, high;
};

struct task_kind {
    const char *name;
    const char *questions[TASK_WORDINGS]; /* up to the first NULL */
    /* Arithmetic in postfix: digits name numbers, 'd' is 2, 'h' 60, 'z' 12. Operation i gives result i; the last one is
     * the answer. NULL when solve does it. */
    const char *formula;
    const char *steps, *conclusion; /* the conclusion ends with the answer */
    struct task_range range[5];
    bool words; /* the answer is {K}, not a number */
    void (*draw)(struct rng *r, struct task_values *v); /* fills what the ranges do not, or changes it; may be NULL */
    /* Fills results (the answer last, in *answer) or the key. slip 0 is right, 1 to TASK_SLIPS are mistakes, which may
     * happen to give the right answer. False if there is no answer to such values. */
    bool (*solve)(struct task_values *v, int slip, int64_t *answer);
};

extern const struct task_kind *const task_kinds[]; /* NULL at the end: task_kind.c */
extern const struct task_kind task_stories[], task_lists[], task_words[], task_times[]; /* end with a NULL name */

/* The answer to v by this kind; false if there is none. */
bool task_solve(const struct task_kind *k, struct task_values *v, int slip, int64_t *answer);
/* Values that make a sensible question. */
void task_draw(const struct task_kind *k, struct rng *r, struct task_values *v);

void task_text_add(struct task_text *t, const char *format, ...) ERR_PRINTF(2, 3);
void task_text_fill(struct task_text *t, const char *template, const struct task_values *v);
/* Append to v->work and v->key. */
void task_work_add(struct task_values *v, const char *format, ...) ERR_PRINTF(2, 3);
void task_key_add(struct task_values *v, const char *text);
/* Whether the template stands anywhere in text, and with which values (v is initialized before). */
bool task_text_find(const char *text, const char *template, struct task_values *v);

int64_t task_between(struct rng *r, int64_t low, int64_t high); /* both included */
const char *task_pick(struct rng *r, const char *const *words, int n);
const char *task_common_word(struct rng *r); /* lower case, 3 to 10 letters */
void task_word_set(char *word, const char *text); /* into [TASK_WORD_MAX], cut if need be */

#endif
