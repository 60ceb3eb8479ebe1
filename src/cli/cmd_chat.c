/* tuneup chat: a conversation with a language model, line by line. The whole conversation is the prompt of each answer; what
 * of it the caches still hold from the answer before is not computed again. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/show.h"
#include "run/generation.h"
#include "text/chat.h"
#include "text/stream.h"

static struct generation_options options;

static int sets(struct option_set *out)
{
    return generation_sets(&options, out);
}

/* Ctrl-C ends an answer, or drops the line being typed; the terminal's end of input ends the program. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct talk {
    struct generation g;
    struct chat chat;
    struct stream stream;
    int32_t *ids; /* [positions] the conversation as the model will see it */
    int64_t n_ids, positions;
    int64_t n_answers; /* so far: the row number of the next one's draws */
    int64_t n_cached; /* leading columns that the caches hold */
    bool interactive;
};

/* ---- the conversation as ids that fit */

/* Ids of the whole conversation, or -1. */
static int64_t encode(const struct talk *t, int32_t **ids, struct err *err)
{
    size_t n;
    int64_t n_ids = -1;
    char *text = chat_text(&t->chat, &n, err);

    if (text && bpe_encode(t->g.tokenizer, text, n, true, ids, &n_ids, err) != 0)
        n_ids = -1;
    mem_free(text);
    return n_ids;
}

/* Room that an answer is to have before old turns are dropped for it: what was asked for, or a quarter of all positions. */
static int64_t room_wanted(const struct talk *t)
{
    const int64_t quarter = t->positions / 4 > 0 ? t->positions / 4 : 1;

    return options.max_new_tokens < quarter ? options.max_new_tokens : quarter;
}

/* The columns that the last answer's run and these ids have in common, and that its caches hold. */
static int64_t common_columns(const struct talk *t, const int32_t *ids, int64_t n_ids)
{
    int64_t n = 0;

    while (n < t->n_cached && n < n_ids && t->ids[n] == ids[n])
        n++;
    return n;
}

/* Puts the conversation into t->ids, without its oldest turns where it is too long. 1: the last turn alone is too long. */
static int fit(struct talk *t, struct err *err)
{
    int32_t *ids = NULL;
    int dropped = 0;
    int64_t n;

    while ((n = encode(t, &ids, err)) >= 0) {
        if (n + (t->chat.n_turns > 1 ? room_wanted(t) : 1) <= t->positions)
            break;
        mem_free(ids);
        if (t->chat.n_turns == 1) {
            log_warning("the message has %" PRId64 " ids, the model has %" PRId64 " positions: left out", n,
                        t->positions);
            return 1;
        }
        chat_drop_first(&t->chat);
        dropped++;
    }
    if (n < 0)
        return -1;
    if (dropped > 0)
        log_note("(the conversation has outgrown the model's %" PRId64 " positions: the oldest %d turn%s left out)",
                 t->positions, dropped, dropped == 1 ? " is" : "s are");
    t->n_cached = common_columns(t, ids, n);
    memcpy(t->ids, ids, (size_t)n * sizeof *ids);
    t->n_ids = n;
    mem_free(ids);
    return 0;
}

/* ---- an answer */

static int show(struct talk *t, struct span s, struct err *err)
{
    if (s.n == 0)
        return 0;
    show_text(s.s, s.n);
    return chat_answer(&t->chat, s.s, s.n, err);
}

static int on_column(void *context, const struct generated *r, int64_t step, struct err *err)
{
    struct talk *t = context;

    (void)step;
    if (show(t, stream_push(&t->stream, r->ids[r->end[0] - 1]), err) != 0)
        return -1;
    return interrupted || t->stream.stopped ? 1 : 0;
}

/* What the caches hold is in t->ids afterwards: all but the last new id, which no step has fed. */
static void keep_columns(struct talk *t)
{
    const struct generated *r = &t->g.generator.result;

    memcpy(t->ids, r->ids, (size_t)r->end[0] * sizeof *t->ids);
    t->n_cached = r->end[0] - 1;
}

static int answer(struct talk *t, struct err *err)
{
    const int32_t begin = 0, end = (int32_t)t->n_ids;
    const struct prompts p = { .B = 1,
                               .P = t->n_ids,
                               .ids = t->ids,
                               .begin = &begin,
                               .end = &end,
                               .rows = &t->n_answers,
                               .n_cached = t->n_cached };
    const struct generated *r = &t->g.generator.result;

    interrupted = 0;
    stream_restart(&t->stream);
    if (generator_run(&t->g.generator, &p, err) != 0 || show(t, stream_end(&t->stream), err) != 0)
        return -1;
    keep_columns(t);
    putchar('\n');
    fflush(stdout);
    if (interrupted)
        log_note("(stopped)");
    else if (!r->ended[0] && !t->stream.stopped)
        log_note("(cut at %d tokens)", r->end[0] - r->prompt_end[0]);
    interrupted = 0;
    t->n_answers++;
    return 0;
}

/* ---- lines */

/* 1: a line in *line without its end, 0: no more. */
static int read_line(const struct talk *t, char **line, size_t *room, size_t *n, struct err *err)
{
    for (;;) {
        if (t->interactive && log_level() >= LOG_NORMAL)
            fputs("> ", stderr);
        errno = 0;
        const ssize_t got = getline(line, room, stdin);
        if (got >= 0) {
            *n = (size_t)got;
            while (*n > 0 && strchr("\r\n", (*line)[*n - 1]))
                (*line)[--*n] = '\0';
            return 1;
        }
        if (!interrupted || feof(stdin))
            break;
        interrupted = 0;
        clearerr(stdin);
        fputs("\n(Ctrl-D leaves)\n", stderr);
    }
    if (ferror(stdin))
        return err_errno(err, "could not read standard input");
    if (t->interactive)
        fputc('\n', stderr);
    return 0;
}

/* A line that is no text is left out with a warning, as a conversation should not end over it. */
static int take_line(struct talk *t, const char *line, size_t n, struct err *err)
{
    int result;

    if (strspn(line, " \t") == n)
        return 0;
    if (chat_ask(&t->chat, line, n, err) != 0)
        return -1;
    result = fit(t, err);
    if (result == 0)
        return answer(t, err);
    if (result < 0 && err->code != ERR_INPUT)
        return -1;
    if (result < 0)
        log_warning("%s; the line is left out", err->what);
    chat_drop_last(&t->chat);
    *err = (struct err){ 0 };
    return 0;
}

static int converse(struct talk *t, struct err *err)
{
    char *line = NULL;
    size_t room = 0, n = 0;
    int more;

    while ((more = read_line(t, &line, &room, &n, err)) > 0)
        if ((more = take_line(t, line, n, err)) != 0)
            break;
    free(line);
    return more;
}

static int start(struct talk *t, struct err *err)
{
    struct generate_options *o;

    t->positions = t->g.positions;
    t->ids = mem_array(t->positions, 1, sizeof *t->ids, MEM_TEXT, err);
    if (!t->ids || generation_start(&t->g, 1, t->positions, err) != 0 ||
        stream_init(&t->stream, t->g.tokenizer, CHAT_HUMAN, err) != 0)
        return -1;
    o = &t->g.generator.options;
    o->hook = on_column;
    o->hook_context = t;
    t->interactive = isatty(STDIN_FILENO);
    if (t->interactive)
        log_note("%s: %" PRId64 " positions. Ctrl-C stops an answer, Ctrl-D leaves.", options.model, t->positions);
    return 0;
}

/* The handler gets a stack of its own: oneDNN's products keep the stack pointer in the heap (run/stop.c). The signal comes to
 * the first thread, as that does not block it. */
static void take_interrupts(void)
{
    static char stack[1 << 16];
    const stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
    /* no SA_RESTART: reading a line ends too */
    const struct sigaction interrupt = { .sa_handler = on_interrupt, .sa_flags = SA_ONSTACK };

    if (sigaltstack(&own, NULL) == 0)
        sigaction(SIGINT, &interrupt, NULL);
}

static int run(struct command_line *line, struct err *err)
{
    struct talk t = { 0 };
    int result;

    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "\"%s\" is no option: messages are read from standard input", line->words[0]);
    result = generation_open(&t.g, &options, err);
    if (result == 0)
        result = start(&t, err);
    if (result == 0 && t.interactive)
        take_interrupts();
    if (result == 0)
        result = converse(&t, err);
    if (result == 0)
        result = generation_check_files(&t.g, err);
    stream_free(&t.stream);
    chat_free(&t.chat);
    mem_free(t.ids);
    generation_close(&t.g);
    return result;
}

const struct command cmd_chat = {
    .name = "chat",
    .summary = "a conversation with a model, line by line",
    .usage = "tuneup chat --model DIR [options]",
    .examples = "  tuneup chat --model out/actor\n"
                "  tuneup chat --model out/actor --dtype bf16 --temperature 0.7 --top_p 0.9\n"
                "  printf 'What is 2 + 2?\\nAnd twice that?\\n' | tuneup chat --model out/actor --temperature 0\n",
    .details =
        "Each line of standard input is a message; answers go to standard output as they are made. The model sees the\n"
        "whole conversation in the form that it was trained on (\"Human: ... Assistant: ...\"), without its oldest "
        "turns once\n"
        "it outgrows the model's positions. An answer ends at the end token, where the model begins a turn of the "
        "human's,\n"
        "at --max_new_tokens, or with Ctrl-C; Ctrl-D leaves.",
    .computes = true,
    .sets = sets,
    .run = run,
};
