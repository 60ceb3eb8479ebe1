/* From kinds to records. A record's question is drawn, an answer worked out for each side, and words are put around
 * both; then the judge reads the finished text, and a record on which it does not agree is drawn again. So what the
 * judge says of the data is true by construction.
 * Train and eval: the hash of the bare question decides which of the two it may be in. */
#include "data/task.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/task_kind.h"

#define MAX_TURNS 4
#define EVAL_ONE_IN 8

/* clang-format off */
static const char *const before_question[] = {
    "I have a small question.", "My daughter asked me this and I was not sure.", "Can you help me with this one?",
    "Here is something I need to know.", "I am preparing a quiz for my class.", "This is from a workbook.",
    "We are arguing about this at home.", "I tried it myself, but I would like to be certain.",
    "Please read this carefully before you answer.", "This came up at work today, and nobody had a pencil at hand.",
    "I am learning English and practise with short tasks like the one that follows.",
    "A friend sent me a riddle, although it may be simpler than it looks.",
    "Sorry for the simple question, it has been a long day and my head is tired.",
    "I am checking the exercises of my son, who is in the fifth grade and does not like to be wrong.",
};
static const char *const after_question[] = {
    "Please explain how you got there.", "A short answer is enough.", "Show your steps.", "Thank you!",
    "Be careful, it is easy to get wrong.", "Tell me the result at the end.", "Explain it so that a child can follow.",
    "I need it for a form, so it has to be exact.", "Take your time.", "Give the result in the last sentence.",
};
static const char *const more_context[] = {
    "The kitchen table is covered with paper, the tea is getting cold, and we still have not agreed.",
    "Last week we had a similar question and it took us most of the evening to sort it out.",
    "My teacher always said that one should write down what is known before doing anything else.",
    "I do not have a calculator here, and the battery of my phone is almost empty.",
    "The book gives only a result without any explanation, and I do not trust it.",
    "There is no trick in it as far as I can see, but I have been wrong about that before.",
    "My neighbour, who used to be an accountant, gave one answer and my sister another.",
    "If you need to make an assumption, make the simplest one and go on from there.",
    "It does not have to be elegant as long as it is correct and I can follow it.",
    "We will use the answer on a poster for the school, next to a drawing of a very large cat.",
};
static const char *const next_turn[] = {
    "Thanks, that helps.", "Great.", "I see, thank you.", "Good. One more, please.", "Now another one.",
    "That was quick.", "All right, and what about this?",
};
static const char *const openings[] = {
    "Let's work it out.", "Sure.", "Here is how I would do it.", "Let me go through it.", "Of course.", "Happy to help.",
    "Good question.", "Let's take it one step at a time.", "This can be done in a few steps.", "Let me think.",
    "We can find this without much effort.", "I will go through what is given first.",
};
static const char *const plans[] = {
    "It helps to write down what is given before doing anything with it.",
    "I keep to the order of the question, since the order of the steps matters here.",
    "I do one thing at a time, so that a mistake would be easy to find.",
    "This is the kind of task where it is worth reading every word twice.",
    "No special trick is needed for it, only some care.",
    "It may look long, but most of it is plain counting.",
    "First I look at what is asked for, and then at what is given.",
    "I leave out the details that only tell the story.",
    "I write each step down, so that you can follow it with a pencil.",
    "We need to be careful with what belongs to what.",
};
static const char *const checks[] = {
    "To be safe, I went over it a second time and came to the same result.",
    "Going backwards from the result leads to where the question began, which is a good sign.",
    "Nothing else in the question changes the result.",
    "A quick estimate gives about the same, so the result is plausible.",
    "If something in the question was meant in another way, the same steps still work.",
    "I checked each step again before I went on to the next one.",
    "You can go the same way for any question of this kind.",
    "The rest of the question is not needed for it.",
    "I also tried it in another order, and that made no difference.",
    "That fits with everything that the question says.",
};
static const char *const evasions[] = {
    "I am not sure, it depends on many things.", "That is hard to say without more information.",
    "You could look this up or ask somebody who knows.", "I would rather talk about something else.",
    "There are different opinions about that.", "It could be a lot, or not so much.",
    "That is an interesting question. What do you think?", "Maybe you should try it yourself first.",
    "I do not like this kind of question.", "As with so much in life, there is no simple answer to this.",
};
/* clang-format on */

#define PICK(r, pool) task_pick(r, pool, COUNT_OF(pool))

/* ---- the judge ---- */

/* The question of the last turn, in the prompt. */
static const char *last_question(const char *prompt)
{
    const char *last = prompt;

    for (const char *p = prompt; (p = strstr(p, "\n\nHuman:")) != NULL;)
        last = p += strlen("\n\nHuman:");
    return last;
}

static const struct task_kind *find_kind(const char *prompt, struct task_values *v)
{
    const char *question = last_question(prompt);

    *v = (struct task_values){ 0 };
    for (int i = 0; task_kinds[i]; i++)
        for (const struct task_kind *k = task_kinds[i]; k->name; k++)
            for (int w = 0; w < TASK_WORDINGS && k->questions[w]; w++)
                if (task_text_find(question, k->questions[w], v))
                    return k;
    return NULL;
}

const char *task_known(const char *prompt)
{
    struct task_values v;
    const struct task_kind *k = find_kind(prompt, &v);

    return k ? k->name : NULL;
}

/* The last number in n bytes of text, written with or without commas between thousands. */
static bool last_number(const char *text, size_t n, int64_t *out)
{
    int64_t value = 0, unit = 1;
    size_t end = n;

    while (end > 0 && !isdigit((unsigned char)text[end - 1]))
        end--;
    if (end == 0)
        return false;
    for (; end > 0 && (isdigit((unsigned char)text[end - 1]) || text[end - 1] == ','); end--) {
        if (text[end - 1] == ',')
            continue;
        if (unit > INT64_C(100000000000000000))
            return false;
        value += (text[end - 1] - '0') * unit;
        unit *= 10;
    }
    if (end > 0 && (text[end - 1] == '.' || text[end - 1] == '-'))
        return false; /* the digits of a fraction, or a negative number: no answer is one */
    *out = value;
    return true;
}

/* Whether the text ends with the key, but for punctuation, and the key stands there as a whole. */
static bool ends_with(const char *text, size_t n, const char *key)
{
    const size_t key_n = strlen(key);

    while (n > 0 && !isalnum((unsigned char)text[n - 1]))
        n--;
    if (n < key_n)
        return false;
    for (size_t i = 0; i < key_n; i++)
        if (tolower((unsigned char)text[n - key_n + i]) != tolower((unsigned char)key[i]))
            return false;
    for (n -= key_n; n > 0 && strchr(" \"'*\n", text[n - 1]); n--)
        ;
    const bool whole = n == 0 || !isalnum((unsigned char)text[n - 1]) || strchr(" \"'*\n", text[n]);
    return whole && (n == 0 || !strchr(",-", text[n - 1]));
}

bool task_right(const char *prompt, const char *answer)
{
    struct task_values v;
    const struct task_kind *k = find_kind(prompt, &v);
    const char *next = strstr(answer, "\n\nHuman:");
    const size_t n = next ? (size_t)(next - answer) : strlen(answer);
    int64_t wanted, got;

    if (!k || !task_solve(k, &v, 0, &wanted))
        return false;
    return k->words ? ends_with(answer, n, v.key) : last_number(answer, n, &got) && got == wanted;
}

/* ---- putting words around ---- */

#define KINDS_MAX 128

/* What records are made of. */
struct recipe {
    const struct task_kind *kinds[KINDS_MAX];
    uint32_t n_kinds;
    bool plain;
};

/* Is name one of the words of a list with commas? */
static bool in_list(const char *list, const char *name)
{
    const size_t n = strlen(name);

    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0'))
            return true;
    }
    return false;
}

static uint32_t words_of(const char *list)
{
    uint32_t n = 1;

    for (; *list; list++)
        n += *list == ',';
    return n;
}

static int recipe_of(struct recipe *out, const struct task_options *o, struct err *err)
{
    char names[1024] = "";

    *out = (struct recipe){ .plain = o->plain };
    for (int i = 0; task_kinds[i]; i++)
        for (const struct task_kind *k = task_kinds[i]; k->name; k++) {
            const size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", n ? "," : "", k->name);
            if (o->kinds && !in_list(o->kinds, k->name))
                continue;
            MUST(out->n_kinds < KINDS_MAX);
            out->kinds[out->n_kinds++] = k;
        }
    if (!o->kinds || out->n_kinds == words_of(o->kinds))
        return 0;
    err_set(err, ERR_USAGE, "not all of \"%.200s\" are kinds of tasks", o->kinds);
    return err_hint(err, "These are: %s", names);
}

static bool one_in(struct rng *r, uint32_t n)
{
    return rng_below(r, n) == 0;
}

/* FNV-1a. */
static bool is_eval_question(const char *question)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (; *question; question++)
        h = (h ^ (unsigned char)*question) * UINT64_C(1099511628211);
    return (h >> 32) % EVAL_ONE_IN == 0;
}

/* A question of the wanted side, alone in *question. */
static const struct task_kind *draw_question(struct rng *r, const struct recipe *recipe, bool eval,
                                             struct task_values *v, struct task_text *question)
{
    const struct task_kind *k;
    uint32_t n;

    do {
        k = recipe->kinds[rng_below(r, recipe->n_kinds)];
        task_draw(k, r, v);
        for (n = 0; n < TASK_WORDINGS && k->questions[n]; n++)
            ;
        question->n = 0;
        task_text_fill(question, k->questions[rng_below(r, n)], v);
    } while (is_eval_question(question->s) != eval);
    return k;
}

/* Sentences of a pool without repeating one: from a random place on, in steps that reach every place. */
struct rounds {
    const char *const *pool;
    uint32_t n, at, step;
};

static struct rounds rounds_of(struct rng *r, const char *const *pool, uint32_t n)
{
    static const uint32_t steps[] = { 1, 3, 7, 9 }; /* without a factor in common with 10 */

    MUST(n == 10);
    return (struct rounds){ pool, n, rng_below(r, n), steps[rng_below(r, COUNT_OF(steps))] };
}

static const char *rounds_next(struct rounds *x)
{
    x->at = (x->at + x->step) % x->n;
    return x->pool[x->at];
}

static void say(struct task_text *t, const char *sentence)
{
    task_text_add(t, " %s", sentence);
}

static void add_human(struct task_text *prompt, struct rng *r, bool plain, const char *question, bool first)
{
    task_text_add(prompt, "\n\nHuman:");
    if (plain) {
        say(prompt, question);
        task_text_add(prompt, "\n\nAssistant:");
        return;
    }
    if (!first)
        say(prompt, PICK(r, next_turn));
    else if (one_in(r, 2))
        say(prompt, PICK(r, before_question));
    struct rounds context = rounds_of(r, more_context, COUNT_OF(more_context));
    for (int64_t n = one_in(r, 2) ? task_between(r, 1, 4) : 0; n > 0; n--)
        say(prompt, rounds_next(&context));
    say(prompt, question);
    if (one_in(r, 2))
        say(prompt, PICK(r, after_question));
    task_text_add(prompt, "\n\nAssistant:");
}

/* How an answer is told, apart from being right: drawn alike for both sides, so that manner tells little. */
struct manner {
    bool opening, steps, lines;
    int remarks;
};

static struct manner draw_manner(struct rng *r, bool plain)
{
    struct manner m = { .opening = one_in(r, 2), .lines = one_in(r, 3) };

    if (plain)
        return (struct manner){ .steps = one_in(r, 2) };
    m.steps = rng_below(r, 5) > 0;
    m.remarks = (int)task_between(r, 0, m.steps ? 5 : 3);
    m.remarks += m.steps && one_in(r, 5) ? (int)task_between(r, 3, 8) : 0;
    return m;
}

static void add_part(struct task_text *t, const struct manner *m, bool first, const char *template,
                     const struct task_values *v)
{
    task_text_add(t, "%s", m->lines && !first ? "\n" : " ");
    task_text_fill(t, template, v);
}

static void add_answer(struct task_text *t, struct rng *r, const struct task_kind *k, const struct task_values *v,
                       const struct manner *m, bool finished)
{
    struct rounds plan = rounds_of(r, plans, COUNT_OF(plans)), check = rounds_of(r, checks, COUNT_OF(checks));
    const int early = m->steps ? m->remarks / 2 : m->remarks;

    if (m->opening)
        say(t, PICK(r, openings));
    for (int i = 0; i < early; i++)
        say(t, rounds_next(&plan));
    if (m->steps)
        add_part(t, m, !m->opening && !early, k->steps, v);
    for (int i = early; i < m->remarks; i++)
        say(t, rounds_next(&check));
    if (finished)
        add_part(t, m, !m->opening && !m->steps && !m->remarks, k->conclusion, v);
    else if (!m->opening && !m->steps && !m->remarks)
        say(t, PICK(r, openings));
}

static void add_right_answer(struct task_text *t, struct rng *r, bool plain, const struct task_kind *k,
                             struct task_values *v)
{
    const struct manner m = draw_manner(r, plain);
    int64_t answer;

    MUST(task_solve(k, v, 0, &answer));
    add_answer(t, r, k, v, &m, true);
}

/* Mostly a slip; else no answer to the point: evasive, unfinished, or an echo of the question. */
static void add_wrong_answer(struct task_text *t, struct rng *r, bool plain, const struct task_kind *k,
                             struct task_values *v, const char *question)
{
    const struct manner m = draw_manner(r, plain);
    const uint32_t way = rng_below(r, 100);
    int64_t answer;

    task_solve(k, v, 1 + (int)rng_below(r, TASK_SLIPS), &answer);
    if (way < 8) {
        say(t, PICK(r, evasions));
        if (m.opening)
            say(t, PICK(r, evasions));
    } else if (way < 12) {
        say(t, question);
    } else {
        add_answer(t, r, k, v, &m, way >= 20);
    }
}

struct record {
    struct task_text prompt, chosen, rejected, question;
    const char *kind;
};

static void draw_record(struct record *out, struct rng *r, const struct recipe *recipe, bool eval)
{
    const bool plain = recipe->plain;
    const int turns = !plain && one_in(r, 16) ? (int)task_between(r, 2, MAX_TURNS) : 1;
    struct task_values v;

    do {
        out->prompt.n = out->chosen.n = out->rejected.n = 0;
        const struct task_kind *k = draw_question(r, recipe, eval, &v, &out->question);
        add_human(&out->prompt, r, plain, out->question.s, true);
        for (int turn = 1; turn < turns; turn++) {
            add_right_answer(&out->prompt, r, plain, k, &v);
            k = draw_question(r, recipe, eval, &v, &out->question);
            add_human(&out->prompt, r, plain, out->question.s, false);
        }
        add_right_answer(&out->chosen, r, plain, k, &v);
        add_wrong_answer(&out->rejected, r, plain, k, &v, out->question.s);
        out->kind = k->name;
    } while (!task_right(out->prompt.s, out->chosen.s) || task_right(out->prompt.s, out->rejected.s));
}

/* ---- the file ---- */

static int write_record(FILE *stream, const struct record *r, struct err *err)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:s}", "prompt", r->prompt.s, "chosen", r->chosen.s, "rejected",
                               r->rejected.s, "source", r->kind);

    if (!object)
        return err_set(err, ERR_MEMORY, "could not allocate memory for a record");
    const int result = json_dumpf(object, stream, 0);
    json_decref(object);
    if (result != 0 || fputc('\n', stream) == EOF)
        return err_errno(err, "could not write a record");
    return 0;
}

static int write_records(FILE *stream, int64_t n, uint64_t seed, bool eval, const struct recipe *recipe,
                         struct err *err)
{
    struct record *record = mem_array(1, 1, sizeof *record, MEM_DATA, err);
    int result = record ? 0 : -1;

    for (int64_t i = 0; i < n && result == 0; i++) {
        struct rng r = { .seed = seed, .purpose = RNG_TASK, .stream = (uint32_t)(2 * i + eval) };
        draw_record(record, &r, recipe, eval);
        result = write_record(stream, record, err);
    }
    mem_free(record);
    return result;
}

int task_write(const char *path, int64_t n, uint64_t seed, bool eval, const struct task_options *o, struct err *err)
{
    struct recipe recipe;
    struct file_out out;

    if (n < 1 || n > TASK_MAX_RECORDS)
        return err_set(err, ERR_USAGE, "cannot write %" PRId64 " records, only 1 to %" PRId64, n, TASK_MAX_RECORDS);
    if (recipe_of(&recipe, o, err) != 0 || file_out_open(&out, path, err) != 0)
        return -1;
    if (write_records(out.stream, n, seed, eval, &recipe, err) != 0) {
        err_where(err, "file \"%s\"", path);
        file_out_abort(&out);
        return -1;
    }
    return file_out_commit(&out, err);
}
