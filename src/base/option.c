/* Parsing is by hand because the same table must also print help, man pages and run files, which getopt cannot do. */
#include "base/option.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 64

static void *place(const struct option *o, void *values)
{
    return (char *)values + o->offset;
}

static char plain(char c)
{
    return c == '-' ? '_' : c;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (plain(*a) != plain(*b))
            return false;
    return *a == *b;
}

/* What follows the set's prefix in name; NULL: it has another beginning. */
static const char *after_prefix(const struct option_set *set, const char *name)
{
    for (const char *p = set->prefix; p && *p; p++, name++)
        if (plain(*name) != plain(*p))
            return NULL;
    return name;
}

static int choice_index(const char *choices, const char *text)
{
    int i = 0;

    for (const char *c = choices;; i++) {
        const size_t n = strcspn(c, "|");
        if (strlen(text) == n && strncmp(c, text, n) == 0)
            return i;
        if (c[n] == '\0')
            return -1;
        c += n + 1;
    }
}

static int bad_value(const struct option *o, const char *text, const char *wanted, struct err *err)
{
    return err_set(err, ERR_USAGE, "option --%s is \"%.80s\", it must be %s", o->name, text, wanted);
}

static int set_number(const struct option *o, void *values, const char *text, struct err *err)
{
    const bool bounded = o->min != 0 || o->max != 0;
    char wanted[128];
    char *end;

    errno = 0;
    const double real = strtod(text, &end);
    bool good = *text != '\0' && *end == '\0' && isfinite(real) && (!bounded || (real >= o->min && real <= o->max));
    if (o->type == OPTION_INT && good) {
        errno = 0;
        const int64_t whole = strtoll(text, &end, 10);
        good = *end == '\0' && errno == 0;
        if (!good && real == floor(real) && fabs(real) < 9e15) { /* "1e6" is a whole number too */
            *(int64_t *)place(o, values) = (int64_t)real;
            return 0;
        }
        if (good)
            *(int64_t *)place(o, values) = whole;
    } else if (good) {
        *(double *)place(o, values) = real;
    }
    if (good)
        return 0;
    const char *what = o->type == OPTION_INT ? "a whole number" : "a number";
    if (bounded)
        snprintf(wanted, sizeof wanted, "%s from %.10g to %.10g", what, o->min, o->max);
    else
        snprintf(wanted, sizeof wanted, "%s", what);
    return bad_value(o, text, wanted, err);
}

static size_t value_bytes(const struct option *o)
{
    switch (o->type) {
    case OPTION_FLAG:
        return sizeof(bool);
    case OPTION_INT:
        return sizeof(int64_t);
    case OPTION_REAL:
        return sizeof(double);
    case OPTION_STRING:
        return sizeof(const char *) * (size_t)(o->many + 1);
    case OPTION_CHOICE:
        return sizeof(int);
    }
    return 0;
}

int option_set_text(const struct option *o, void *values, const char *text, struct err *err)
{
    switch (o->type) {
    case OPTION_FLAG:
        if (strcmp(text, "true") == 0 || strcmp(text, "1") == 0)
            *(bool *)place(o, values) = true;
        else if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0)
            *(bool *)place(o, values) = false;
        else
            return bad_value(o, text, "true or false", err);
        return 0;
    case OPTION_INT:
    case OPTION_REAL:
        return set_number(o, values, text, err);
    case OPTION_STRING:
        memset(place(o, values), 0, value_bytes(o));
        *(const char **)place(o, values) = text;
        return 0;
    case OPTION_CHOICE: {
        const int i = choice_index(o->choices, text);
        if (i < 0)
            return bad_value(o, text, o->choices, err);
        *(int *)place(o, values) = i;
        return 0;
    }
    }
    return 0;
}

void option_defaults(const struct option_set *sets, int n_sets)
{
    struct err err;

    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; o->name; o++) {
            memset(place(o, sets[s].values), 0, value_bytes(o));
            if (o->fallback)
                MUST(option_set_text(o, sets[s].values, o->fallback, &err) == 0);
        }
}

/* Levenshtein's distance. */
int option_distance(const char *a, const char *b)
{
    int row[NAME_MAX_BYTES + 1];
    const int m = (int)strlen(b);

    if (m > NAME_MAX_BYTES)
        return m;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];

        row[0] = i;
        for (int j = 1; j <= m; j++) {
            const int up = row[j];
            const int change = diagonal + ((a[i - 1] == '-' ? '_' : a[i - 1]) != b[j - 1]);
            int best = up + 1 < row[j - 1] + 1 ? up + 1 : row[j - 1] + 1;

            row[j] = best < change ? best : change;
            diagonal = up;
        }
    }
    return row[m];
}

static int unknown(const struct option_set *sets, int n_sets, const char *name, struct err *err)
{
    const char *nearest = NULL, *prefix = NULL;
    int best = 1 << 20;

    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; o->name; o++)
            for (int k = 0; k < 2; k++) {
                const char *candidate = k ? o->alias : o->name, *rest = after_prefix(&sets[s], name);
                const int d = candidate && rest ? option_distance(rest, candidate) : 1 << 20;
                if (d < best) {
                    best = d;
                    prefix = sets[s].prefix;
                    nearest = candidate;
                }
            }
    err_set(err, ERR_USAGE, "unknown option --%.80s", name);
    if (nearest && best <= 1 + (int)strlen(name) / 2)
        err_hint(err, "Did you mean --%s%s? --help lists all options.", prefix ? prefix : "", nearest);
    else
        err_hint(err, "--help lists all options.");
    return -1;
}

static const struct option *find(const struct option_set *sets, int n_sets, const char *name, void **values)
{
    for (int s = 0; s < n_sets; s++) {
        const char *rest = after_prefix(&sets[s], name);
        for (const struct option *o = sets[s].options; rest && o->name; o++)
            if (same_name(rest, o->name) || (o->alias && same_name(rest, o->alias))) {
                *values = sets[s].values;
                return o;
            }
    }
    return NULL;
}

static bool is_given(const struct option *o, const void *values, const struct option_given *given, int n_given)
{
    for (int i = 0; i < n_given; i++)
        if (given[i].option == o && given[i].values == values)
            return true;
    return false;
}

/* The words behind the first one of an option that takes many. Returns how many there are, or -1. */
static int take_more(const struct option *o, void *values, int argc, char **argv, struct err *err)
{
    const char **list = place(o, values);
    int n = 1;

    while (o->many && n <= argc && argv[n - 1][0] != '-') {
        if (n == o->many)
            return err_set(err, ERR_USAGE, "option --%s takes at most %d words", o->name, o->many);
        list[n] = argv[n - 1];
        n++;
    }
    return n - 1;
}

static void inherit(const struct option_set *sets, int n_sets, const struct option_given *given, int n_given)
{
    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; sets[s].inherits && o->name; o++)
            if (!is_given(o, sets[s].values, given, n_given))
                memcpy(place(o, sets[s].values), (const char *)sets[s].inherits + o->offset, value_bytes(o));
}

int option_parse(const struct option_set *sets, int n_sets, int argc, char **argv, struct option_given *given,
                 int max_given, int *n_given, const char **words, int max_words, int *n_words, struct err *err)
{
    bool ended = false;

    *n_given = *n_words = 0;
    for (int i = 1; i < argc; i++) {
        char name[NAME_MAX_BYTES * 2];
        const char *word = argv[i], *text = NULL, *equals;
        const struct option *o;
        void *values = NULL;

        if (!ended && strcmp(word, "--") == 0) {
            ended = true;
            continue;
        }
        if (ended || word[0] != '-' || word[1] != '-') {
            if (!ended && word[0] == '-' && word[1] != '\0')
                return err_set(err, ERR_USAGE, "unknown option %.80s", word);
            if (*n_words == max_words) {
                err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", word);
                return err_hint(err, "Options begin with --; --help lists them.");
            }
            words[(*n_words)++] = word;
            continue;
        }
        equals = strchr(word + 2, '=');
        snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - word - 2) : (int)sizeof name - 1, word + 2);
        if (equals)
            text = equals + 1;
        o = find(sets, n_sets, name, &values);
        if (!o && strncmp(name, "no", 2) == 0 && (name[2] == '-' || name[2] == '_') && !text) {
            o = find(sets, n_sets, name + 3, &values);
            if (o && o->type != OPTION_FLAG)
                o = NULL;
            text = "false";
        }
        if (!o)
            return unknown(sets, n_sets, name, err);
        if (!text && o->type == OPTION_FLAG)
            text = "true";
        if (!text && i + 1 == argc)
            return err_set(err, ERR_USAGE, "option --%s needs a value", o->name);
        if (!text)
            text = argv[++i];
        if (option_set_text(o, values, text, err) != 0)
            return -1;
        const int more = equals ? 0 : take_more(o, values, argc - i - 1, argv + i + 1, err);
        if (more < 0)
            return -1;
        i += more;
        if (*n_given == max_given)
            return err_set(err, ERR_USAGE, "more than %d options are given", max_given);
        given[(*n_given)++] = (struct option_given){ o, text, values };
    }
    inherit(sets, n_sets, given, *n_given);
    return 0;
}

static void print_words(const struct option *o, const char *const *words, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s", words[0] ? words[0] : "");

    for (int i = 1; i < o->many && words[i] && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, " %s", words[i]);
}

void option_print(const struct option *o, const void *values, char *out, size_t size)
{
    const void *p = (const char *)values + o->offset;

    switch (o->type) {
    case OPTION_FLAG:
        snprintf(out, size, "%s", *(const bool *)p ? "true" : "false");
        break;
    case OPTION_INT:
        snprintf(out, size, "%" PRId64, *(const int64_t *)p);
        break;
    case OPTION_REAL:
        snprintf(out, size, "%.17g", *(const double *)p);
        break;
    case OPTION_STRING:
        print_words(o, p, out, size);
        break;
    case OPTION_CHOICE: {
        const char *c = o->choices;
        for (int i = *(const int *)p; i > 0; i--)
            c += strcspn(c, "|") + 1;
        snprintf(out, size, "%.*s", (int)strcspn(c, "|"), c);
        break;
    }
    }
}

/* One word is a string, several are an array. */
static json_t *words_json(const struct option *o, const char *const *words)
{
    if (!words[0] || o->many == 0 || !words[1])
        return words[0] ? json_string(words[0]) : json_null();
    json_t *list = json_array();
    for (int i = 0; words[i]; i++)
        json_array_append_new(list, json_string(words[i]));
    return list;
}

static json_t *value_json(const struct option *o, const void *values)
{
    const void *p = (const char *)values + o->offset;
    char text[FILENAME_MAX];

    switch (o->type) {
    case OPTION_FLAG:
        return json_boolean(*(const bool *)p);
    case OPTION_INT:
        return json_integer(*(const int64_t *)p);
    case OPTION_REAL:
        return json_real(*(const double *)p);
    case OPTION_STRING:
        return words_json(o, p);
    case OPTION_CHOICE:
        option_print(o, values, text, sizeof text);
        return json_string(text);
    }
    return NULL;
}

json_t *option_json(const struct option_set *sets, int n_sets, const struct option_given *given, int n_given)
{
    json_t *all = json_object();

    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; o->name; o++) {
            const bool told = is_given(o, sets[s].values, given, n_given) ||
                              (sets[s].inherits && is_given(o, sets[s].inherits, given, n_given));
            char name[2 * NAME_MAX_BYTES];
            snprintf(name, sizeof name, "%s%s", sets[s].prefix ? sets[s].prefix : "", o->name);
            json_object_set_new(all, name,
                                json_pack("{s:o, s:s}", "value", value_json(o, sets[s].values), "origin",
                                          told ? "command line" : "default"));
        }
    return all;
}

/* The names of a copy, in lines of some 100 letters: what they mean stands with the original. */
static void print_names(FILE *out, const struct option_set *set)
{
    int column = 0;

    for (const struct option *o = set->options; o->name; o++) {
        const int n = (int)(strlen(set->prefix) + strlen(o->name)) + 4;
        if (column == 0 || column + n > 100) {
            fprintf(out, "%s   ", column ? "\n" : "");
            column = 1;
        }
        fprintf(out, " --%s%s", set->prefix, o->name);
        column += n;
    }
    if (column)
        fputc('\n', out);
}

void option_help(FILE *out, const struct option_set *sets, int n_sets)
{
    for (int s = 0; s < n_sets; s++) {
        if (s == 0 || strcmp(sets[s].title, sets[s - 1].title) != 0)
            fprintf(out, "\n%s:\n", sets[s].title);
        if (sets[s].prefix)
            print_names(out, &sets[s]);
        for (const struct option *o = sets[s].options; !sets[s].prefix && o->name; o++) {
            char left[160];
            snprintf(left, sizeof left, "--%s%s%s%s%s", o->name, o->alias ? ", --" : "", o->alias ? o->alias : "",
                     o->type == OPTION_FLAG ? "" : " ",
                     o->type == OPTION_FLAG ? ""
                     : o->choices           ? o->choices
                     : o->value             ? o->value
                                            : "VALUE");
            fprintf(out, "  %-42s %s%s", left,
                    strlen(left) > 42 ? "\n                                             " : "", o->help);
            if (o->fallback && o->type != OPTION_FLAG)
                fprintf(out, " [%s]", o->fallback);
            else if (o->fallback && strcmp(o->fallback, "true") == 0)
                fprintf(out, " [on; --no-%s turns it off]", o->name);
            fputc('\n', out);
        }
    }
}
