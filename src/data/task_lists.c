/* Tasks about a list: sorting, counting, adding up, choosing. The values that matter are in v->list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/task_kind.h"

static int64_t number_at(const struct task_values *v, int i)
{
    return strtoll(v->list[i], NULL, 10);
}

static bool all_numbers(const struct task_values *v)
{
    for (int i = 0; i < v->n_list; i++)
        if (strspn(v->list[i], "0123456789") != strlen(v->list[i]) || strlen(v->list[i]) > 6)
            return false;
    return v->n_list > 0;
}

/* Mostly short lists, some long ones. */
static int draw_length(struct rng *r)
{
    return (int)(rng_below(r, 8) ? task_between(r, 4, 9) : task_between(r, 10, 24));
}

static bool in_list(const struct task_values *v, const char *word)
{
    for (int i = 0; i < v->n_list; i++)
        if (strcmp(v->list[i], word) == 0)
            return true;
    return false;
}

static void draw_words(struct rng *r, struct task_values *v)
{
    const int n = draw_length(r);

    while (v->n_list < n) {
        const char *word = task_common_word(r);
        if (!in_list(v, word))
            task_word_set(v->list[v->n_list++], word);
    }
}

static void draw_numbers(struct rng *r, struct task_values *v)
{
    const int n = draw_length(r);

    while (v->n_list < n) {
        char number[8];
        snprintf(number, sizeof number, "%d", (int)task_between(r, 2, 99));
        if (!in_list(v, number))
            task_word_set(v->list[v->n_list++], number);
    }
}

static int by_letters(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int by_size(const void *a, const void *b)
{
    const long long x = strtoll(a, NULL, 10), y = strtoll(b, NULL, 10);

    return (x > y) - (x < y);
}

static int by_size_down(const void *a, const void *b)
{
    return by_size(b, a);
}

static void swap_words(char *a, char *b)
{
    char t[TASK_WORD_MAX];

    memcpy(t, a, sizeof t);
    memcpy(a, b, sizeof t);
    memcpy(b, t, sizeof t);
}

/* What goes wrong when people sort: two neighbours change places, one is left out, one comes first by mistake. */
static void spoil_list(char (*list)[TASK_WORD_MAX], int *n, int slip)
{
    const int at = (slip * 3) % (*n - 1);

    switch (slip) {
    case 1:
    case 2:
        swap_words(list[at], list[at + 1]);
        break;
    case 3:
        swap_words(list[*n - 2], list[*n - 1]);
        break;
    case 4:
        memmove(list[at], list[at + 1], (size_t)(*n - at - 1) * TASK_WORD_MAX);
        --*n;
        break;
    default:
        swap_words(list[0], list[*n - 1]);
    }
}

static bool sort_by(struct task_values *v, int slip, int (*order)(const void *, const void *))
{
    struct task_values sorted = *v;

    if (v->n_list < 3)
        return false;
    qsort(sorted.list, (size_t)sorted.n_list, TASK_WORD_MAX, order);
    if (slip)
        spoil_list(sorted.list, &sorted.n_list, slip);
    for (int i = 0; i < sorted.n_list; i++) {
        task_key_add(v, i ? ", " : "");
        task_key_add(v, sorted.list[i]);
    }
    return true;
}

static bool sort_letters(struct task_values *v, int slip, int64_t *answer)
{
    (void)answer;
    return sort_by(v, slip, by_letters);
}

static bool sort_up(struct task_values *v, int slip, int64_t *answer)
{
    (void)answer;
    return all_numbers(v) && sort_by(v, slip, by_size);
}

static bool sort_down(struct task_values *v, int slip, int64_t *answer)
{
    (void)answer;
    return all_numbers(v) && sort_by(v, slip, by_size_down);
}

/* The running total, with a slip in one of the additions. */
static bool add_up(struct task_values *v, int slip, int64_t *answer)
{
    static const int64_t by[TASK_SLIPS + 1] = { 0, 10, -10, 1, -1, 100 };

    if (!all_numbers(v) || v->n_list < 2)
        return false;
    *answer = number_at(v, 0);
    for (int i = 1; i < v->n_list; i++) {
        const bool here = slip && i == 1 + slip % (v->n_list - 1);
        const int64_t sum = *answer + number_at(v, i) + (here ? by[slip] : 0);
        task_work_add(v, "%s%lld + %s = %lld", i > 1 ? ", " : "", (long long)*answer, v->list[i], (long long)sum);
        *answer = sum;
    }
    v->result[0] = *answer;
    return true;
}

/* Counts the items that are so; a slip takes one of them, or two, for what it is not. */
static int64_t count_where(struct task_values *v, int slip, bool (*is)(const struct task_values *, int))
{
    int64_t n = 0;

    for (int i = 0; i < v->n_list; i++) {
        const bool mistaken = slip && (i == slip * 5 % v->n_list || (slip == TASK_SLIPS && i == 1));
        if (is(v, i) == mistaken)
            continue;
        task_work_add(v, "%s%s", n ? ", " : "", v->list[i]);
        n++;
    }
    if (n == 0)
        task_work_add(v, "none");
    v->result[0] = n;
    return n;
}

static bool is_even(const struct task_values *v, int i)
{
    return number_at(v, i) % 2 == 0;
}

static bool count_even(struct task_values *v, int slip, int64_t *answer)
{
    *answer = all_numbers(v) ? count_where(v, slip, is_even) : 0;
    return all_numbers(v);
}

static void draw_longer(struct rng *r, struct task_values *v)
{
    draw_words(r, v);
    v->number[0] = task_between(r, 4, 6);
}

static bool is_longer(const struct task_values *v, int i)
{
    return (int64_t)strlen(v->list[i]) > v->number[0];
}

static bool count_longer(struct task_values *v, int slip, int64_t *answer)
{
    *answer = count_where(v, slip, is_longer);
    return true;
}

/* Slips: an odd one leaves a word out, an even one counts a word twice. */
static bool count_items(struct task_values *v, int slip, int64_t *answer)
{
    for (int i = 0; i < v->n_list; i++) {
        const bool here = slip && i == slip % v->n_list;
        const int times = !here ? 1 : slip % 2 ? 0 : 2;
        for (int k = 0; k < times; k++, ++*answer)
            task_work_add(v, "%s%lld %s", *answer ? ", " : "", (long long)*answer + 1, v->list[i]);
    }
    v->result[0] = *answer;
    return true;
}

/* The largest, or with a slip another one. */
static bool largest(struct task_values *v, int slip, int64_t *answer)
{
    if (!all_numbers(v))
        return false;
    for (int i = 0; i < v->n_list; i++)
        *answer = number_at(v, i) > *answer ? number_at(v, i) : *answer;
    if (slip && number_at(v, slip % v->n_list) != *answer)
        *answer = number_at(v, slip % v->n_list);
    v->result[0] = *answer;
    return true;
}

/* The longest word, which must be the only one of its length. A slip gives another word too many letters. */
static bool longest_word(struct task_values *v, int slip, int64_t *answer)
{
    int best = 0, n_best = 0;

    (void)answer;
    for (int i = 0; i < v->n_list; i++) {
        const size_t n = strlen(v->list[i]), longest = strlen(v->list[best]);
        n_best = n > longest ? 1 : n_best + (n == longest);
        best = n > longest ? i : best;
    }
    const int said = (best + slip) % v->n_list;
    for (int i = 0; i < v->n_list; i++) {
        const size_t more = said != best && i == said ? strlen(v->list[best]) - strlen(v->list[i]) + 1 : 0;
        task_work_add(v, "%s%s %zu", i ? ", " : "", v->list[i], strlen(v->list[i]) + more);
    }
    task_key_add(v, v->list[said]);
    return n_best == 1;
}

static bool initials(struct task_values *v, int slip, int64_t *answer)
{
    size_t n = 0;

    (void)answer;
    for (int i = 0; i < v->n_list; i++)
        v->key[n++] = v->list[i][0];
    v->key[n] = '\0';
    if (slip && n >= 2) {
        const size_t at = (size_t)slip % (n - 1);
        const char c = v->key[at];
        v->key[at] = v->key[at + 1];
        v->key[at + 1] = c;
    }
    return n > 0;
}

/* clang-format off */
const struct task_kind task_lists[] = {
    { .name = "sort words", .words = true, .draw = draw_words, .solve = sort_letters,
      .questions = {
          "Sort these words in alphabetical order: {L}.",
          "Please put the following words in the order of a dictionary: {L}.",
          "I have a list of words: {L}. Can you sort it alphabetically?",
          "Here are some labels: {L}. Write them again from A to Z." },
      .steps = "I look at the first letters, and where two are the same at the letter after it.",
      .conclusion = "In order they are: {K}." },
    { .name = "sort up", .words = true, .draw = draw_numbers, .solve = sort_up,
      .questions = {
          "Put these numbers in order from smallest to largest: {L}.",
          "Sort the numbers {L} in increasing order.",
          "These are the points of our players: {L}. List them beginning with the lowest." },
      .steps = "I take the smallest number first, then the smallest of those that are left, and so on.",
      .conclusion = "From small to large: {K}." },
    { .name = "sort down", .words = true, .draw = draw_numbers, .solve = sort_down,
      .questions = {
          "Put these numbers in order from largest to smallest: {L}.",
          "Sort the numbers {L} in decreasing order.",
          "These are the prices on my list: {L}. Write them from the highest to the lowest." },
      .steps = "I begin with the largest number and go on with the largest of those that are left.",
      .conclusion = "From large to small: {K}." },
    { .name = "sum", .draw = draw_numbers, .solve = add_up,
      .questions = {
          "What is the sum of these numbers: {L}?",
          "Add up {L}.",
          "My bills this week were {L} dollars. How much is that in total?" },
      .steps = "I add one number after the other: {W}.",
      .conclusion = "The sum is {a}." },
    { .name = "even", .draw = draw_numbers, .solve = count_even,
      .questions = {
          "How many of these numbers are even: {L}?",
          "Count the even numbers in this list: {L}.",
          "The houses in a street have the numbers {L}. How many of the numbers are even?" },
      .steps = "A number is even when its last digit is even. These are: {W}.",
      .conclusion = "The count of even numbers is {a}." },
    { .name = "longer words", .draw = draw_longer, .solve = count_longer,
      .questions = {
          "How many words in this list have more than {0} letters: {L}?",
          "Count the words with more than {0} letters: {L}.",
          "In the list {L}, how many words are longer than {0} letters?" },
      .steps = "I keep the words with more than {0} letters: {W}.",
      .conclusion = "The number of such words is {a}." },
    { .name = "items", .draw = draw_words, .solve = count_items,
      .questions = {
          "How many words are in this list: {L}?",
          "My shopping list says {L}. How many things are on it?",
          "Count the entries: {L}." },
      .steps = "I count them one by one: {W}.",
      .conclusion = "The count is {a}." },
    { .name = "largest", .draw = draw_numbers, .solve = largest,
      .questions = {
          "Which of these numbers is the largest: {L}?",
          "Find the biggest number among {L}.",
          "Our guests are of these ages: {L}. How old is the oldest?" },
      .steps = "I compare the numbers one by one and remember the larger one each time.",
      .conclusion = "The largest is {a}." },
    { .name = "longest word", .words = true, .draw = draw_words, .solve = longest_word,
      .questions = {
          "Which of these words is the longest: {L}?",
          "Find the word with the most letters: {L}." },
      .steps = "These are the words with their letters counted: {W}.",
      .conclusion = "The longest word is {K}." },
    { .name = "initials", .words = true, .draw = draw_words, .solve = initials,
      .questions = {
          "Take the first letter of each of these words and join them: {L}.",
          "What do you get from the initial letters of {L}?" },
      .steps = "I write down the first letter of every word, one behind the other.",
      .conclusion = "The letters together are {K}." },
    { 0 },
};
/* clang-format on */
