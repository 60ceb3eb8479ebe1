/* What all kinds of task share: drawing values, working out formulas and making the mistakes people make in them. */
#include "data/task_kind.h"

#include <stdlib.h>
#include <string.h>

const struct task_kind *const task_kinds[] = { task_stories, task_lists, task_words, task_times, NULL };

/* clang-format off */
static const char *const names[] = {
    "Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Leo", "Maria", "Nils",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Umar", "Vera", "Will", "Yara", "Zoe", "Amir", "Bella", "Chen", "Dora", "Emil",
    "Fatima", "Gina", "Hana", "Ivan", "Julia", "Karl", "Lena", "Mika", "Nora", "Oscar", "Priya",
};
static const char *const things[] = {
    "apples", "marbles", "stickers", "pencils", "books", "coins", "shells", "cards", "cookies", "oranges", "stamps",
    "buttons", "candles", "flowers", "tickets", "magnets", "notebooks", "beads", "balloons", "muffins", "lemons", "pears",
    "postcards", "crayons", "bottles", "plates", "stones", "feathers", "keys", "badges",
};
static const char *const common[] = {
    "apple", "anchor", "arrow", "autumn", "bag", "basket", "beach", "bicycle", "bird", "blanket", "bottle", "branch",
    "bread", "bridge", "brush", "bucket", "butter", "button", "cabin", "camera", "candle", "carpet", "castle", "chair",
    "cherry", "circle", "cloud", "coffee", "corner", "cotton", "curtain", "desk", "dinner", "doctor", "dolphin", "door",
    "dragon", "drawer", "eagle", "engine", "evening", "family", "farmer", "feather", "fence", "finger", "flower", "forest",
    "fountain", "garden", "glass", "glove", "grape", "guitar", "hammer", "harbor", "hat", "honey", "horse", "hotel",
    "island", "jacket", "journey", "jungle", "kettle", "kitchen", "ladder", "lamp", "lantern", "leaf", "lemon", "letter",
    "library", "lion", "market", "meadow", "melon", "mirror", "monkey", "morning", "mountain", "mouse", "museum", "music",
    "needle", "notebook", "ocean", "office", "olive", "onion", "orange", "owl", "paper", "parrot", "pencil", "pepper",
    "piano", "picture", "pillow", "planet", "pocket", "potato", "puzzle", "rabbit", "rain", "ribbon", "river", "rocket",
    "roof", "rose", "sailor", "salad", "school", "shadow", "shelf", "shoulder", "silver", "sister", "snow", "spider",
    "spoon", "station", "stone", "storm", "street", "sugar", "summer", "table", "teacher", "thunder", "ticket", "tiger",
    "tomato", "tower", "train", "travel", "tree", "tunnel", "turtle", "umbrella", "valley", "village", "violin", "wagon",
    "walnut", "water", "weather", "whale", "wheel", "window", "winter", "wizard", "wolf", "yellow", "zebra",
};
/* clang-format on */

const char *task_common_word(struct rng *r)
{
    return task_pick(r, common, COUNT_OF(common));
}

static int64_t wrong_result(int64_t right, int slip)
{
    static const int64_t off[] = { 1, -1, 10, -10, 2 };
    const int64_t wrong = right + off[slip % COUNT_OF(off)];

    return wrong > 0 ? wrong : right + 10;
}

static bool operate(char op, int64_t x, int64_t y, int64_t *out)
{
    switch (op) {
    case '+':
        *out = x + y;
        return true;
    case '-':
        *out = x - y;
        return x >= y;
    case '*':
        *out = x * y;
        return true;
    default:
        MUST(op == '/');
        *out = y ? x / y : 0;
        return y != 0 && x % y == 0;
    }
}

static int64_t operand(char c, const struct task_values *v)
{
    return c == 'd' ? 2 : c == 'h' ? 60 : c == 'z' ? 12 : v->number[c - '0'];
}

/* Slips: 1 and 2 spoil the first step, 3 and 4 the last, 5 both; each is carried through what follows. */
static bool spoiled(int slip, int step, bool last)
{
    return slip == 5 || (step == 0 && (slip == 1 || slip == 2)) || (last && (slip == 3 || slip == 4));
}

static bool work_out(const char *formula, struct task_values *v, int slip, int64_t *answer)
{
    int64_t stack[8] = { 0 };
    int depth = 0, step = 0;

    for (const char *p = formula; *p; p++) {
        if (!strchr("+-*/", *p)) {
            MUST(depth < COUNT_OF(stack));
            stack[depth++] = operand(*p, v);
            continue;
        }
        MUST(depth >= 2 && step < COUNT_OF(v->result));
        depth--;
        if (!operate(*p, stack[depth - 1], stack[depth], &stack[depth - 1]) && slip == 0)
            return false;
        if (spoiled(slip, step, p[1] == '\0'))
            stack[depth - 1] = wrong_result(stack[depth - 1], slip + step);
        v->result[step++] = stack[depth - 1];
    }
    *answer = stack[0];
    return true;
}

bool task_solve(const struct task_kind *k, struct task_values *v, int slip, int64_t *answer)
{
    *answer = 0;
    v->key[0] = v->work[0] = '\0';
    return k->solve ? k->solve(v, slip, answer) : work_out(k->formula, v, slip, answer);
}

void task_draw(const struct task_kind *k, struct rng *r, struct task_values *v)
{
    int64_t answer;

    do {
        *v = (struct task_values){ 0 };
        task_word_set(v->word[0], task_pick(r, names, COUNT_OF(names)));
        task_word_set(v->word[1], task_pick(r, things, COUNT_OF(things)));
        do
            task_word_set(v->word[2], task_pick(r, names, COUNT_OF(names)));
        while (strcmp(v->word[0], v->word[2]) == 0);
        for (int i = 0; i < COUNT_OF(k->range) && k->range[i].high > 0; i++)
            v->number[i] = task_between(r, k->range[i].low, k->range[i].high);
        if (k->draw)
            k->draw(r, v);
    } while (!task_solve(k, v, 0, &answer) || (!k->words && answer < 0));
}
