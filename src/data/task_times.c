/* Tasks about days, clocks and units of measure. */
#include <stdio.h>
#include <string.h>

#include "data/task_kind.h"

static const char *const weekdays[] = { "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday" };
static const char *const months[] = { "January", "February", "March",     "April",   "May",      "June",
                                      "July",    "August",   "September", "October", "November", "December" };
static const int days_of[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

static const struct unit {
    const char *large, *one, *small;
    int64_t factor;
} units[] = {
    { "kilometres", "kilometre", "metres", 1000 },
    { "metres", "metre", "centimetres", 100 },
    { "hours", "hour", "minutes", 60 },
    { "minutes", "minute", "seconds", 60 },
    { "weeks", "week", "days", 7 },
    { "days", "day", "hours", 24 },
    { "kilograms", "kilogram", "grams", 1000 },
    { "litres", "litre", "millilitres", 1000 },
    { "feet", "foot", "inches", 12 },
    { "yards", "yard", "feet", 3 },
    { "pounds", "pound", "ounces", 16 },
    { "years", "year", "months", 12 },
    { "gallons", "gallon", "quarts", 4 },
    { "centuries", "century", "years", 100 },
    { "tonnes", "tonne", "kilograms", 1000 },
    { "decades", "decade", "years", 10 },
};

static int find(const char *const *words, int n, const char *word)
{
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return -1;
}

static void draw_weekday(struct rng *r, struct task_values *v)
{
    task_word_set(v->word[3], task_pick(r, weekdays, COUNT_OF(weekdays)));
}

static bool weekday(struct task_values *v, int slip, int64_t *answer)
{
    const int today = find(weekdays, COUNT_OF(weekdays), v->word[3]);

    (void)answer;
    if (today < 0)
        return false;
    v->result[0] = v->number[0] / 7;
    v->result[1] = v->number[0] % 7;
    task_key_add(v, weekdays[(today + v->result[1] + slip) % 7]);
    return true;
}

static bool weekday_before(struct task_values *v, int slip, int64_t *answer)
{
    const int today = find(weekdays, COUNT_OF(weekdays), v->word[3]);

    (void)answer;
    if (today < 0)
        return false;
    v->result[0] = v->number[0] / 7;
    v->result[1] = v->number[0] % 7;
    task_key_add(v, weekdays[(today + 7 - v->result[1] + slip) % 7]);
    return true;
}

/* Number 0 : number 1 on the clock, and number 2 minutes more. */
static bool clock_time(struct task_values *v, int slip, int64_t *answer)
{
    static const int64_t by[TASK_SLIPS + 1] = { 0, 60, -60, 10, -10, 100 };
    const int64_t begin = v->number[0] * 60 + v->number[1], end = begin + v->number[2] + by[slip];

    (void)answer;
    if (v->number[0] > 23 || v->number[1] > 59 || end < 0 || end >= 24 * 60)
        return false;
    v->result[0] = v->number[2] / 60;
    v->result[1] = v->number[2] % 60;
    snprintf(v->key, sizeof v->key, "%d:%02d", (int)(end / 60), (int)(end % 60));
    return true;
}

static void draw_dates(struct rng *r, struct task_values *v)
{
    const int a = (int)rng_below(r, 11), b = (int)task_between(r, a + 1, a + 3 < 11 ? a + 3 : 11);

    task_word_set(v->word[2], months[a]);
    task_word_set(v->word[3], months[b]);
    v->number[0] = task_between(r, 1, days_of[a]);
    v->number[1] = task_between(r, 1, days_of[b]);
}

static bool days_between(struct task_values *v, int slip, int64_t *answer)
{
    static const int64_t by[TASK_SLIPS + 1] = { 0, 1, -1, 2, 30, -2 };
    const int a = find(months, COUNT_OF(months), v->word[2]), b = find(months, COUNT_OF(months), v->word[3]);

    if (a < 0 || b <= a || v->number[0] > days_of[a] || v->number[1] > days_of[b])
        return false;
    v->result[0] = days_of[a] - v->number[0];
    v->result[1] = 0;
    for (int i = a + 1; i < b; i++)
        v->result[1] += days_of[i];
    *answer = v->result[0] + v->result[1] + v->number[1] + by[slip];
    *answer = *answer > 0 ? *answer : 3;
    v->result[2] = *answer;
    return true;
}

static void draw_unit(struct rng *r, struct task_values *v)
{
    const struct unit *u = &units[rng_below(r, COUNT_OF(units))];

    task_word_set(v->word[2], u->large);
    task_word_set(v->word[3], u->small);
}

static const struct unit *unit_of(const struct task_values *v)
{
    for (int i = 0; i < COUNT_OF(units); i++)
        if (strcmp(units[i].large, v->word[2]) == 0 && strcmp(units[i].small, v->word[3]) == 0)
            return &units[i];
    return NULL;
}

/* Mistakes: ten times too many or few in the factor, another well-known factor, or a slip in the product. */
static bool to_small(struct task_values *v, int slip, int64_t *answer)
{
    const struct unit *u = unit_of(v);

    if (!u)
        return false;
    v->result[0] = slip == 1 ? u->factor * 10 : slip == 2 ? (u->factor == 12 ? 10 : 12) : u->factor;
    *answer = v->number[0] * v->result[0];
    *answer += slip == 3 ? u->factor : slip == 4 ? 10 : slip == 5 ? -1 : 0;
    v->result[1] = *answer;
    task_word_set(v->word[1], u->one);
    return true;
}

static void draw_back(struct rng *r, struct task_values *v)
{
    draw_unit(r, v);
    v->number[0] = task_between(r, 2, 60) * unit_of(v)->factor;
}

static bool to_large(struct task_values *v, int slip, int64_t *answer)
{
    static const int64_t by[TASK_SLIPS + 1] = { 0, 1, -1, 10, 2, 20 };
    const struct unit *u = unit_of(v);

    if (!u || v->number[0] % u->factor != 0)
        return false;
    v->result[0] = u->factor;
    *answer = v->number[0] / u->factor + by[slip];
    v->result[1] = *answer;
    task_word_set(v->word[1], u->one);
    return true;
}

/* clang-format off */
const struct task_kind task_times[] = {
    { .name = "weekday after", .words = true, .draw = draw_weekday, .solve = weekday,
      .questions = {
          "Today is {D}. What day of the week will it be in {0} days?",
          "A parcel is sent on a {D} and arrives {0} days later. On which day of the week does it arrive?",
          "If a course begins on a {D}, which day of the week is it {0} days after the beginning?" },
      .range = { { 2, 90 } },
      .steps = "Every 7 days the same day comes again. {0} days are {a} full weeks and {b} days, so I count {b} days on from {D}.",
      .conclusion = "The day is {K}." },
    { .name = "weekday before", .words = true, .draw = draw_weekday, .solve = weekday_before,
      .questions = {
          "Today is {D}. What day of the week was it {0} days ago?",
          "The holidays ended {0} days before this {D}. On which day of the week did they end?" },
      .range = { { 2, 60 } },
      .steps = "Weeks do not change the day. {0} days are {a} full weeks and {b} days, so I count {b} days back from {D}.",
      .conclusion = "The day was {K}." },
    { .name = "clock", .words = true, .solve = clock_time,
      .questions = {
          "A film starts at {0}:{M} and lasts {2} minutes. At what time does it end?",
          "The train leaves at {0}:{M} and the trip takes {2} minutes. When does it arrive?",
          "It is {0}:{M} now, and the bread needs {2} minutes. At what time can {A} take it out?" },
      .range = { { 6, 20 }, { 1, 59 }, { 12, 185 } },
      .steps = "The {2} minutes are {a} h and {b} min. I add them to {0}:{M} and carry over at 60 minutes.",
      .conclusion = "The time is {K}." },
    { .name = "days between", .draw = draw_dates, .solve = days_between,
      .questions = {
          "How many days is it from {C} {0} to {D} {1} of the same year, if it is not a leap year?",
          "A plant is set on {C} {0} and flowers on {D} {1} of the same year, not a leap year. How many days did it take?" },
      .steps = "From {C} {0} to the end of that month it is {a} days. The months in between have {b} days, and then come {1} days of {D}.",
      .conclusion = "The number of days is {c}." },
    { .name = "to small unit", .draw = draw_unit, .solve = to_small,
      .questions = {
          "How many {D} are there in {0} {C}?",
          "Please convert {0} {C} into {D}.",
          "A label says {0} {C}. How much is that in {D}?",
          "I need {0} {C}, but my measure shows {D}. What should it show?" },
      .range = { { 2, 95 } },
      .steps = "There are {a} {D} in one {B}, so I take {0} * {a}.",
      .conclusion = "In {D} it is {b}." },
    { .name = "to large unit", .draw = draw_back, .solve = to_large,
      .questions = {
          "How many {C} do {0} {D} make?",
          "Express {0} {D} in {C}.",
          "I counted {0} {D}. What is that in {C}?" },
      .steps = "One {B} has {a} {D}, so I divide {0} by {a}.",
      .conclusion = "In {C} it is {b}." },
    { 0 },
};
/* clang-format on */
