/* Tasks about one word or a few values: string edits and short comparisons. */
#include <string.h>

#include "data/task_kind.h"

static void draw_word(struct rng *r, struct task_values *v)
{
    task_word_set(v->word[3], task_common_word(r));
}

/* A mistake in a word: two letters change places, one is left out, or one is doubled. */
static void spoil_word(char *word, size_t n, int slip)
{
    const size_t at = n > 2 ? (size_t)slip % (n - 1) : 0;
    const char c = word[at];

    if (n < 2) {
        word[n] = 'e';
        word[n + 1] = '\0';
    } else if (slip <= 2) {
        word[at] = word[at + 1];
        word[at + 1] = c;
    } else if (slip <= 4) {
        memmove(word + at, word + at + 1, n - at);
    } else {
        memmove(word + at + 1, word + at, n - at + 1);
    }
}

/* w-o-r-d */
static void spell(struct task_values *v, const char *word)
{
    for (const char *p = word; *p; p++)
        task_work_add(v, "%s%c", p > word ? "-" : "", *p);
}

static bool finish_word(struct task_values *v, size_t n, int slip)
{
    v->key[n] = '\0';
    if (slip)
        spoil_word(v->key, n, slip);
    spell(v, v->key);
    return n > 0;
}

static bool reverse(struct task_values *v, int slip, int64_t *answer)
{
    const size_t n = strlen(v->word[3]);

    (void)answer;
    for (size_t i = 0; i < n; i++)
        v->key[i] = v->word[3][n - 1 - i];
    return finish_word(v, n, slip);
}

static bool without_vowels(struct task_values *v, int slip, int64_t *answer)
{
    size_t n = 0;

    (void)answer;
    for (const char *p = v->word[3]; *p; p++)
        if (!strchr("aeiou", *p))
            v->key[n++] = *p;
    return finish_word(v, n, slip);
}

static void draw_replace(struct rng *r, struct task_values *v)
{
    draw_word(r, v);
    v->word[1][0] = v->word[3][rng_below(r, (uint32_t)strlen(v->word[3]))];
    v->word[2][0] = (char)('a' + rng_below(r, 26));
    v->word[1][1] = v->word[2][1] = '\0';
}

static bool replace(struct task_values *v, int slip, int64_t *answer)
{
    size_t n = 0;

    (void)answer;
    for (const char *p = v->word[3]; *p; p++)
        v->key[n++] = *p == v->word[1][0] ? v->word[2][0] : *p;
    return finish_word(v, n, slip) && v->word[1][0] != v->word[2][0] && !v->word[1][1] && !v->word[2][1];
}

static bool double_word(struct task_values *v, int slip, int64_t *answer)
{
    size_t n = 0;

    (void)answer;
    for (int k = 0; k < 2; k++)
        for (const char *p = v->word[3]; *p; p++)
            v->key[n++] = *p;
    return finish_word(v, n, slip);
}

static int64_t off(int64_t right, int slip)
{
    static const int64_t by[TASK_SLIPS] = { 1, -1, 2, 3, -2 };

    return slip == 0 ? right : right + by[slip - 1] < 0 ? right + 4 : right + by[slip - 1];
}

static void draw_letter(struct rng *r, struct task_values *v)
{
    draw_replace(r, v);
    if (rng_below(r, 5) == 0)
        v->word[1][0] = (char)('a' + rng_below(r, 26));
}

static bool count_letter(struct task_values *v, int slip, int64_t *answer)
{
    for (const char *p = v->word[3]; *p; p++)
        *answer += *p == v->word[1][0];
    v->result[0] = *answer = off(*answer, slip);
    spell(v, v->word[3]);
    return !v->word[1][1];
}

static bool count_letters(struct task_values *v, int slip, int64_t *answer)
{
    v->result[0] = *answer = off((int64_t)strlen(v->word[3]), slip);
    spell(v, v->word[3]);
    return true;
}

static void draw_three_names(struct rng *r, struct task_values *v)
{
    static const char *const third[] = { "Alex", "Robin", "Toni", "Kay", "Sasha", "Noor", "Jo", "Charlie" };

    task_word_set(v->word[1], task_pick(r, third, COUNT_OF(third)));
}

/* Which of the three values is best: the largest or the smallest one. The key is the name that goes with it. */
static bool name_of(struct task_values *v, int slip, bool smallest)
{
    static const int word_of[] = { 0, 2, 1 };
    int best = 0;

    for (int i = 1; i < 3; i++)
        if (smallest ? v->number[i] < v->number[best] : v->number[i] > v->number[best])
            best = i;
    task_key_add(v, v->word[word_of[(best + (slip ? 1 + slip % 2 : 0)) % 3]]);
    return v->number[0] != v->number[1] && v->number[1] != v->number[2] && v->number[0] != v->number[2];
}

static bool most(struct task_values *v, int slip, int64_t *answer)
{
    (void)answer;
    return name_of(v, slip, false);
}

static bool least(struct task_values *v, int slip, int64_t *answer)
{
    (void)answer;
    return name_of(v, slip, true);
}

/* {0} things for {1} dollars at the first shop, {2} for {3} at the second: the lower price of one. */
static bool cheaper(struct task_values *v, int slip, int64_t *answer)
{
    const int64_t first = v->number[1] * v->number[2], second = v->number[3] * v->number[0];

    (void)answer;
    task_key_add(v, v->word[(first < second) != (slip > 0) ? 0 : 2]);
    v->result[0] = first;
    v->result[1] = second;
    v->result[2] = v->number[0] * v->number[2];
    return first != second;
}

static bool larger(struct task_values *v, int slip, int64_t *answer)
{
    const int64_t product = v->number[0] * v->number[1];

    v->result[0] = product;
    *answer = (product > v->number[2]) != (slip > 0) ? product : v->number[2];
    v->result[1] = *answer;
    return product != v->number[2];
}

/* clang-format off */
const struct task_kind task_words[] = {
    { .name = "reverse", .words = true, .draw = draw_word, .solve = reverse,
      .questions = {
          "Write the word \"{D}\" backwards.",
          "What do you get if you read \"{D}\" from the end to the beginning?",
          "Spell \"{D}\" in reverse, please." },
      .steps = "I begin with the last letter of the word and go back to the first one: {W}.",
      .conclusion = "Backwards it is {K}." },
    { .name = "no vowels", .words = true, .draw = draw_word, .solve = without_vowels,
      .questions = {
          "Remove all vowels from the word \"{D}\".",
          "What remains of \"{D}\" when a, e, i, o and u are taken out?" },
      .steps = "The vowels are a, e, i, o and u; every other letter stays where it is: {W}.",
      .conclusion = "What remains is {K}." },
    { .name = "replace", .words = true, .draw = draw_replace, .solve = replace,
      .questions = {
          "Replace every \"{B}\" in the word \"{D}\" by \"{C}\".",
          "Take the word \"{D}\" and write \"{C}\" wherever it has \"{B}\".",
          "Which word do I get when I change each \"{B}\" in \"{D}\" to \"{C}\"?" },
      .steps = "I go through the letters, write {C} in place of {B}, and keep the others: {W}.",
      .conclusion = "The new word is {K}." },
    { .name = "twice", .words = true, .draw = draw_word, .solve = double_word,
      .questions = {
          "Write \"{D}\" two times without a space.",
          "Join the word \"{D}\" with itself." },
      .steps = "I write the word once and right behind it once more.",
      .conclusion = "The result is {K}." },
    { .name = "letter count", .draw = draw_letter, .solve = count_letter,
      .questions = {
          "How many times does the letter \"{B}\" appear in the word \"{D}\"?",
          "Count the letter \"{B}\" in \"{D}\".",
          "In the word \"{D}\", how often do you see the letter \"{B}\"?" },
      .steps = "I go through the word letter by letter, {W}, and count each {B}.",
      .conclusion = "The letter {B} is there this many times: {a}." },
    { .name = "word length", .draw = draw_word, .solve = count_letters,
      .questions = {
          "How many letters does the word \"{D}\" have?",
          "Tell me the number of letters in \"{D}\"." },
      .steps = "I spell the word and count its letters: {W}.",
      .conclusion = "The number of letters is {a}." },
    { .name = "oldest", .words = true, .draw = draw_three_names, .solve = most,
      .questions = {
          "{A} is {0} years old, {C} is {1} and {B} is {2}. Who is the oldest?",
          "In a race for points {A} got {0}, {C} got {1} and {B} got {2}. Who got the most?",
          "{A} is {0} centimetres tall, {C} is {1} and {B} is {2}. Who is the tallest?" },
      .range = { { 61, 199 }, { 61, 199 }, { 61, 199 } },
      .steps = "The three numbers to compare are {0}, {1} and {2}.",
      .conclusion = "The one with the highest number is {K}." },
    { .name = "fastest", .words = true, .draw = draw_three_names, .solve = least,
      .questions = {
          "{A} needs {0} seconds for a lap, {C} needs {1} and {B} needs {2}. Who is the fastest?",
          "{A} paid {0} dollars for a bicycle, {C} paid {1} and {B} paid {2}. Who paid the least?" },
      .range = { { 41, 250 }, { 41, 250 }, { 41, 250 } },
      .steps = "Here the smallest of {0}, {1} and {2} is wanted.",
      .conclusion = "The one with the lowest number is {K}." },
    { .name = "cheaper", .words = true, .solve = cheaper,
      .questions = {
          "{A} sells {0} {B} for {1} dollars, and {C} sells {2} {B} for {3} dollars. Who has the lower price for one?",
          "You get {0} {B} for {1} dollars from {A} and {2} {B} for {3} dollars from {C}. With whom is one of them cheaper?" },
      .range = { { 2, 12 }, { 4, 40 }, { 2, 12 }, { 4, 40 } },
      .steps = "To compare, take {c} {B} from each: from {A} they cost {a} dollars, from {C} {b} dollars.",
      .conclusion = "The lower price is with {K}." },
    { .name = "larger", .solve = larger,
      .questions = {
          "Which is larger, {0} times {1} or {2}? Give the larger number.",
          "Name the larger of these two numbers: the product of {0} and {1}, or {2}." },
      .range = { { 3, 25 }, { 3, 25 }, { 20, 500 } },
      .steps = "The product is {0} * {1} = {a}. Compare it with {2}.",
      .conclusion = "The larger number is {b}." },
    { 0 },
};
/* clang-format on */
