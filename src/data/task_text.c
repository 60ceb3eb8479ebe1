/* Templates: filling them and finding them again. A placeholder is matched by what its letter says it is (digits, a word,
 * a list), so matching never has to back up. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/task_kind.h"

void task_word_set(char *word, const char *text)
{
    snprintf(word, TASK_WORD_MAX, "%.*s", TASK_WORD_MAX - 1, text);
}

void task_text_add(struct task_text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const int n = vsnprintf(t->s + t->n, sizeof t->s - t->n, format, args);
    va_end(args);
    MUST(n >= 0 && t->n + (size_t)n < sizeof t->s);
    t->n += (size_t)n;
}

void task_work_add(struct task_values *v, const char *format, ...)
{
    const size_t at = strlen(v->work);
    va_list args;

    va_start(args, format);
    const int n = vsnprintf(v->work + at, sizeof v->work - at, format, args);
    va_end(args);
    MUST(n >= 0 && at + (size_t)n < sizeof v->work);
}

void task_key_add(struct task_values *v, const char *text)
{
    const size_t at = strlen(v->key);
    const int n = snprintf(v->key + at, sizeof v->key - at, "%s", text);

    MUST(n >= 0 && at + (size_t)n < sizeof v->key);
}

static void add_list(struct task_text *t, const struct task_values *v)
{
    for (int i = 0; i < v->n_list; i++)
        task_text_add(t, "%s%s", i ? ", " : "", v->list[i]);
}

void task_text_fill(struct task_text *t, const char *template, const struct task_values *v)
{
    for (const char *p = template; *p; p++) {
        if (p[0] != '{' || p[1] == '\0' || p[2] != '}') {
            task_text_add(t, "%c", *p);
            continue;
        }
        const char c = p[1];
        p += 2;
        if (c >= '0' && c <= '4')
            task_text_add(t, "%lld", (long long)v->number[c - '0']);
        else if (c == 'M')
            task_text_add(t, "%02lld", (long long)v->number[1]);
        else if (c >= 'A' && c <= 'D')
            task_text_add(t, "%s", v->word[c - 'A']);
        else if (c >= 'a' && c <= 'd')
            task_text_add(t, "%lld", (long long)v->result[c - 'a']);
        else if (c == 'L')
            add_list(t, v);
        else if (c == 'K')
            task_text_add(t, "%s", v->key);
        else if (c == 'W')
            task_text_add(t, "%s", v->work);
        else
            MUST(!"a placeholder of no known kind");
    }
}

/* Each of these takes its kind of value from the beginning of text and returns what follows it, or NULL. */
static const char *take_number(const char *text, int at, struct task_values *v)
{
    char *end;

    if (!isdigit((unsigned char)*text))
        return NULL;
    const long long number = strtoll(text, &end, 10);
    if (number > TASK_NUMBER_MAX || ((v->known_numbers >> at & 1) && v->number[at] != number))
        return NULL;
    v->number[at] = number;
    v->known_numbers |= 1u << at;
    return end;
}

static size_t word_length(const char *text)
{
    size_t n = 0;

    while (isalnum((unsigned char)text[n]))
        n++;
    return n > 0 && n < TASK_WORD_MAX ? n : 0;
}

static const char *take_word(const char *text, int at, struct task_values *v)
{
    const size_t n = word_length(text);

    if (n == 0 || ((v->known_words >> at & 1) && (strlen(v->word[at]) != n || memcmp(v->word[at], text, n) != 0)))
        return NULL;
    memcpy(v->word[at], text, n);
    v->word[at][n] = '\0';
    v->known_words |= 1u << at;
    return text + n;
}

static const char *take_list(const char *text, struct task_values *v)
{
    for (v->n_list = 0; v->n_list < TASK_LIST_MAX; text += 2) {
        const size_t n = word_length(text);
        if (n == 0)
            return NULL;
        memcpy(v->list[v->n_list], text, n);
        v->list[v->n_list++][n] = '\0';
        text += n;
        if (text[0] != ',' || text[1] != ' ')
            return text;
    }
    return NULL;
}

static bool match(const char *text, const char *template, struct task_values *v)
{
    for (const char *p = template; *p && text; p++) {
        if (p[0] != '{' || p[1] == '\0' || p[2] != '}') {
            text = *text == *p ? text + 1 : NULL;
            continue;
        }
        const char c = p[1];
        p += 2;
        if (c == 'M')
            text = take_number(text, 1, v);
        else if (c == 'L')
            text = take_list(text, v);
        else if (c >= 'A' && c <= 'D')
            text = take_word(text, c - 'A', v);
        else
            text = take_number(text, c - '0', v);
    }
    return text != NULL;
}

bool task_text_find(const char *text, const char *template, struct task_values *v)
{
    for (const char *p = text; *p; p++) {
        if (template[0] != '{' && *p != template[0])
            continue;
        if (p > text && isalnum((unsigned char)p[-1]) && isalnum((unsigned char)p[0]))
            continue; /* inside of a word */
        v->known_numbers = v->known_words = 0;
        if (match(p, template, v))
            return true;
    }
    return false;
}

int64_t task_between(struct rng *r, int64_t low, int64_t high)
{
    return low + rng_below(r, (uint32_t)(high - low + 1));
}

const char *task_pick(struct rng *r, const char *const *words, int n)
{
    return words[rng_below(r, (uint32_t)n)];
}
