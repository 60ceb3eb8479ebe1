/* libyaml makes a tree of nodes with lines; the tree is walked by what the study knows, never by what the file nests, so
 * its depth needs no bound of ours, and an alias costs no more than the words and cells that it stands for. */
#include "study/study_file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/option.h"

#define MAX_DEPTH 64
#define MAX_PHASE 32

struct reader {
    yaml_document_t doc;
    const char *name;
    struct cells *s;
    struct err *err;
    const yaml_node_t *study; /* the whole file's mapping */
};

static int at_line(const struct reader *r, const yaml_node_t *node)
{
    return err_where(r->err, "file \"%s\", line %zu", r->name, node->start_mark.line + 1);
}

static const char *text_of(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

static const char *type_of(const yaml_node_t *node)
{
    return node->type == YAML_MAPPING_NODE ? "a mapping" : node->type == YAML_SEQUENCE_NODE ? "a list" : "a word";
}

static int wrong(const struct reader *r, const yaml_node_t *node, const char *key, const char *wanted)
{
    char safe[80];

    if (node->type == YAML_SCALAR_NODE)
        err_set(r->err, ERR_INPUT, "\"%s\" is \"%s\", it must be %s", key, log_safe(safe, sizeof safe, text_of(node)),
                wanted);
    else
        err_set(r->err, ERR_INPUT, "\"%s\" is %s, it must be %s", key, type_of(node), wanted);
    return at_line(r, node);
}

/* A word without a zero byte inside: what can go on a command line. */
static bool is_word(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE && strlen(text_of(node)) == node->data.scalar.length;
}

static int unknown_key(const struct reader *r, const yaml_node_t *node, const char *const *keys)
{
    const char *nearest = keys[0];
    char safe[80];

    for (int i = 1; keys[i]; i++)
        if (option_distance(text_of(node), keys[i]) < option_distance(text_of(node), nearest))
            nearest = keys[i];
    err_set(r->err, ERR_INPUT, "unknown key \"%s\"", log_safe(safe, sizeof safe, text_of(node)));
    at_line(r, node);
    return err_hint(r->err, "Did you mean \"%s\"?", nearest);
}

/* A mapping with no other keys than these, each at most once. */
static int check_keys(struct reader *r, const yaml_node_t *map, const char *what, const char *const *keys)
{
    bool seen[24] = { false };

    if (map->type != YAML_MAPPING_NODE)
        return wrong(r, map, what, "a mapping (key: value)");
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        int i = 0;

        if (!is_word(key))
            return wrong(r, key, what, "a mapping with words as keys");
        while (keys[i] && strcmp(keys[i], text_of(key)) != 0)
            i++;
        if (!keys[i])
            return unknown_key(r, key, keys);
        if (seen[i]) {
            err_set(r->err, ERR_INPUT, "the key \"%s\" is given twice", keys[i]);
            return at_line(r, key);
        }
        seen[i] = true;
    }
    return 0;
}

static const yaml_node_t *get(struct reader *r, const yaml_node_t *map, const char *key)
{
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++)
        if (is_word(yaml_document_get_node(&r->doc, p->key)) &&
            strcmp(text_of(yaml_document_get_node(&r->doc, p->key)), key) == 0)
            return yaml_document_get_node(&r->doc, p->value);
    return NULL;
}

static int whole_number(struct reader *r, const yaml_node_t *node, const char *key, int64_t min, int64_t max,
                        int64_t *out)
{
    char *end = NULL, wanted[96];

    errno = 0;
    const long long value = is_word(node) ? strtoll(text_of(node), &end, 10) : 0;
    if (end && end != text_of(node) && *end == '\0' && errno == 0 && value >= min && value <= max) {
        *out = value;
        return 0;
    }
    snprintf(wanted, sizeof wanted, "a whole number from %" PRId64 " to %" PRId64, min, max);
    return wrong(r, node, key, wanted);
}

static int get_number(struct reader *r, const yaml_node_t *map, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const yaml_node_t *node = get(r, map, key);

    return node ? whole_number(r, node, key, min, max, out) : 0;
}

static int get_seconds(struct reader *r, const yaml_node_t *map, const char *key, double *out)
{
    const yaml_node_t *node = get(r, map, key);
    char *end = NULL;

    if (!node)
        return 0;
    const double value = is_word(node) ? strtod(text_of(node), &end) : 0;
    if (!end || end == text_of(node) || *end != '\0' || !(value > 0 && value <= 1e8))
        return wrong(r, node, key, "seconds, more than 0 and at most 1e8");
    *out = value;
    return 0;
}

/* *out is replaced by a copy of the word; absent keeps it. */
static int get_word(struct reader *r, const yaml_node_t *map, const char *key, char **out)
{
    const yaml_node_t *node = get(r, map, key);

    if (!node)
        return 0;
    if (!is_word(node) || text_of(node)[0] == '\0')
        return wrong(r, node, key, "a word");
    char *copy = mem_strdup(text_of(node), MEM_RECORD, r->err);
    if (!copy)
        return -1;
    mem_free(*out);
    *out = copy;
    return 0;
}

static int get_list(struct reader *r, const yaml_node_t *map, const char *key, struct words *out)
{
    const yaml_node_t *node = get(r, map, key);

    if (!node)
        return 0;
    if (node->type != YAML_SEQUENCE_NODE)
        return wrong(r, node, key, "a list of words");
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);

        if (!is_word(item))
            return wrong(r, item, key, "a list of words");
        if (words_add(out, r->err, "%s", text_of(item)) != 0)
            return at_line(r, item);
    }
    return 0;
}

/* { max_steps: 6, chunked_loss: false } -> "--max_steps=6", "--no-chunked_loss": the command itself checks them. by_phase,
 * unless NULL, takes the words of { ppo: { ... } }. */
static int take_options(struct reader *r, const yaml_node_t *node, struct words *out, struct words *by_phase)
{
    int failed = 0;

    if (node->type != YAML_MAPPING_NODE)
        return wrong(r, node, "options", "a mapping of options to values");
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; !failed && p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        const int phase = by_phase && is_word(key) ? cells_phase(text_of(key)) : -1;

        if (phase >= 0) {
            failed = take_options(r, value, &by_phase[phase], NULL);
            continue;
        }
        if (!is_word(key) || !is_word(value))
            return wrong(r, value, is_word(key) ? text_of(key) : "options", "one word or number");
        if (strcmp(text_of(value), "true") == 0)
            failed = words_add(out, r->err, "--%s", text_of(key));
        else if (strcmp(text_of(value), "false") == 0)
            failed = words_add(out, r->err, "--no-%s", text_of(key));
        else
            failed = words_add(out, r->err, "--%s=%s", text_of(key), text_of(value));
        if (failed)
            at_line(r, key);
    }
    return failed;
}

static int get_options(struct reader *r, const yaml_node_t *map, struct words *out, struct words *by_phase)
{
    const yaml_node_t *node = get(r, map, "options");

    return node ? take_options(r, node, out, by_phase) : 0;
}

static int get_ranks(struct reader *r, const yaml_node_t *map)
{
    const yaml_node_t *node = get(r, map, "ranks");
    struct cells *s = r->s;

    if (!node)
        return 0;
    if (node->type != YAML_SEQUENCE_NODE)
        return wrong(r, node, "ranks", "a list of rank counts");
    const int64_t n = node->data.sequence.items.top - node->data.sequence.items.start;
    if (n < 1 || n > 16)
        return wrong(r, node, "ranks", "a list of 1 to 16 rank counts");
    s->ranks = mem_array(n, 1, sizeof *s->ranks, MEM_RECORD, r->err);
    if (!s->ranks)
        return -1;
    for (int i = 0; i < n; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, node->data.sequence.items.start[i]);

        if (whole_number(r, item, "ranks", 1, CELLS_MAX_RANKS, &s->ranks[i]) != 0)
            return -1;
        s->n_ranks = i + 1;
    }
    return 0;
}

static int check_phase(struct reader *r, const yaml_node_t *map, const char *phase)
{
    const yaml_node_t *node = get(r, map, "phase"), *command = get(r, map, "command");
    static const char *const of_phases[] = { "options", NULL };
    static const char *const of_commands[] = {
        "arguments", "parameters", "environment", "folder", "loss_pattern", NULL
    };

    if (!node && !command) {
        err_set(r->err, ERR_INPUT, "the cell has neither a phase nor a command");
        at_line(r, map);
        return err_hint(r->err, "Write \"phase: sft\", or \"command: [PROGRAM, ARGUMENT, ...]\".");
    }
    if (phase && !command && cells_phase(phase) < 0)
        return wrong(r, node, "phase", "sft, reward or ppo");
    if (phase && strlen(phase) > MAX_PHASE)
        return wrong(r, node, "phase", "a word of at most 32 bytes");
    for (const char *const *key = command ? of_phases : of_commands; *key; key++)
        if (get(r, map, *key)) {
            err_set(r->err, ERR_INPUT, "a cell %s a command has no \"%s\"", command ? "with" : "without", *key);
            return at_line(r, get(r, map, *key));
        }
    return 0;
}

/* { a: b } -> "a=b". */
static int get_pairs(struct reader *r, const yaml_node_t *map, const char *key, struct words *out)
{
    const yaml_node_t *node = get(r, map, key);

    if (!node)
        return 0;
    if (node->type != YAML_MAPPING_NODE)
        return wrong(r, node, key, "a mapping of names to values");
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = yaml_document_get_node(&r->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);

        if (!is_word(name) || strpbrk(text_of(name), "=}") || !text_of(name)[0] || !is_word(value))
            return wrong(r, is_word(name) ? value : name, key, "a mapping of names without = to words");
        if (words_add(out, r->err, "%s=%s", text_of(name), text_of(value)) != 0)
            return at_line(r, name);
    }
    return 0;
}

/* A regular expression with one group: the number that it holds. */
static int get_pattern(struct reader *r, const yaml_node_t *map, char **out)
{
    const yaml_node_t *node = get(r, map, "loss_pattern");
    char why[128];
    regex_t re;

    if (!node || get_word(r, map, "loss_pattern", out) != 0)
        return node ? -1 : 0;
    const int code = regcomp(&re, *out, REG_EXTENDED | REG_NEWLINE);
    if (code != 0) {
        regerror(code, &re, why, sizeof why);
        return wrong(r, node, "loss_pattern", why);
    }
    const size_t groups = re.re_nsub;
    regfree(&re);
    return groups == 1 ? 0 : wrong(r, node, "loss_pattern", "an expression with one group: loss: ([0-9.]+)");
}

/* The words of a command: a list, or the name of one of the study's. */
static int get_command(struct reader *r, const yaml_node_t *map, struct words *out)
{
    const yaml_node_t *node = get(r, map, "command"), *named = get(r, r->study, "commands");

    if (node->type == YAML_SEQUENCE_NODE) {
        if (get_list(r, map, "command", out) != 0)
            return -1;
    } else if (!is_word(node) || !named || named->type != YAML_MAPPING_NODE || !get(r, named, text_of(node))) {
        return wrong(r, node, "command", "a list of words, or a name under \"commands\"");
    } else if (get_list(r, named, text_of(node), out) != 0) {
        return -1;
    }
    return out->n > 0 ? 0 : wrong(r, node, "command", "a list of at least one word");
}

static int read_command(struct reader *r, const yaml_node_t *map, struct cell *c)
{
    c->is_command = true;
    if (get_command(r, map, &c->argv) != 0 || get_list(r, map, "arguments", &c->argv) != 0 ||
        get_pairs(r, map, "parameters", &c->parameters) != 0 ||
        get_pairs(r, map, "environment", &c->environment) != 0 ||
        get_pairs(r, r->study, "environment", &c->environment) != 0 ||
        /* the first of a name counts */ get_word(r, r->study, "folder", &c->folder) != 0 ||
        get_word(r, map, "folder", &c->folder) != 0 || get_pattern(r, r->study, &c->loss_pattern) != 0)
        return -1;
    return get_pattern(r, map, &c->loss_pattern);
}

/* The first cell of the same phase is the baseline of those that name none. */
static const char *default_baseline(const struct cells *s, const char *phase, const char *name)
{
    for (int i = 0; i < s->n_cells; i++)
        if (strcmp(s->cells[i].phase, phase) == 0)
            return s->cells[i].name;
    return name;
}

static int read_cell(struct reader *r, const yaml_node_t *map)
{
    static const char *const keys[] = { "name",      "phase",      "techniques",  "options", "command",      "baseline",
                                        "arguments", "parameters", "environment", "folder",  "loss_pattern", NULL };
    char *name = NULL, *phase = NULL, *baseline = NULL;
    struct cell *c = NULL;
    int result = -1;

    if (check_keys(r, map, "cell", keys) != 0 || get_word(r, map, "name", &name) != 0 ||
        get_word(r, map, "phase", &phase) != 0 || get_word(r, map, "baseline", &baseline) != 0 ||
        check_phase(r, map, phase) != 0)
        goto done;
    if (!name) {
        err_set(r->err, ERR_INPUT, "the cell has no name");
        at_line(r, map);
        goto done;
    }
    const char *kind = phase ? phase : "command";
    c = cells_add(r->s, name, kind, baseline ? baseline : default_baseline(r->s, kind, name), r->err);
    if (!c || get_list(r, map, "techniques", &c->techniques) != 0 ||
        (get(r, map, "command") ? read_command(r, map, c) : get_options(r, map, &c->argv, NULL)) != 0)
        goto done;
    result = 0;
done:
    mem_free(name);
    mem_free(phase);
    mem_free(baseline);
    return result;
}

static int read_study(struct reader *r)
{
    static const char *const keys[] = { "name",         "blocks",      "warmup", "seed",         "timeout", "model",
                                        "reward_model", "data",        "ranks",  "options",      "cells",   "commands",
                                        "parameters",   "environment", "folder", "loss_pattern", NULL };
    const yaml_node_t *map = yaml_document_get_root_node(&r->doc);
    struct cells *s = r->s;

    if (!map)
        return err_set(r->err, ERR_INPUT, "the study file \"%s\" is empty", r->name);
    s->warmup = 1;
    r->study = map;
    if (check_keys(r, map, "study", keys) != 0 || get_word(r, map, "name", &s->name) != 0 ||
        get_number(r, map, "blocks", 1, 10000, &s->blocks) != 0 ||
        get_number(r, map, "warmup", 0, 100, &s->warmup) != 0 ||
        get_number(r, map, "seed", 0, INT32_MAX, &s->seed) != 0 || get_seconds(r, map, "timeout", &s->timeout_s) != 0 ||
        get_word(r, map, "model", &s->model) != 0 || get_word(r, map, "data", &s->data) != 0 ||
        get_word(r, map, "reward_model", &s->reward_model) != 0 || get_ranks(r, map) != 0 ||
        get_options(r, map, &s->options, s->phase_options) != 0 || get_pairs(r, map, "parameters", &s->parameters) != 0)
        return -1;
    const yaml_node_t *list = get(r, map, "cells");
    if (!list || list->type != YAML_SEQUENCE_NODE)
        return wrong(r, list ? list : map, "cells", "a list of cells");
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top; i++)
        if (read_cell(r, yaml_document_get_node(&r->doc, *i)) != 0)
            return -1;
    return 0;
}

/* libyaml looks at every open bracket again at each word, so a file of brackets alone would keep it busy for hours.
 * Quoted brackets count too: no study holds this many. */
static int check_depth(const char *text, size_t n, const char *name, struct err *err)
{
    int64_t depth = 0, line = 1;

    for (size_t i = 0; i < n; i++) {
        depth += (text[i] == '[' || text[i] == '{') - (text[i] == ']' || text[i] == '}');
        line += text[i] == '\n';
        if (depth > MAX_DEPTH) {
            err_set(err, ERR_INPUT, "more than %d brackets are open at once", MAX_DEPTH);
            return err_where(err, "file \"%s\", line %" PRId64, name, line);
        }
    }
    return 0;
}

int study_file_parse(struct cells *s, const char *text, size_t n, const char *name, struct err *err)
{
    struct reader r = { .name = name, .s = s, .err = err };
    yaml_parser_t parser;
    int result = -1;

    *s = (struct cells){ 0 };
    if (check_depth(text, n, name, err) != 0 || cells_init(s, name, err) != 0)
        return -1;
    if (!yaml_parser_initialize(&parser)) {
        cells_free(s);
        return err_set(err, ERR_MEMORY, "could not allocate a YAML parser");
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    if (yaml_parser_load(&parser, &r.doc)) {
        result = read_study(&r);
        yaml_document_delete(&r.doc);
    } else {
        err_set(err, ERR_INPUT, "not valid YAML: %s", parser.problem ? parser.problem : "unreadable");
        err_where(err, "file \"%s\", line %zu", name, parser.problem_mark.line + 1);
    }
    yaml_parser_delete(&parser);
    if (result != 0)
        cells_free(s);
    return result;
}

int study_file_load(struct cells *s, const char *path, struct err *err)
{
    size_t n = 0;
    char *text = file_read(path, STUDY_FILE_MAX_BYTES, &n, err);

    *s = (struct cells){ 0 };
    if (!text)
        return -1;
    const int result = study_file_parse(s, text, n, path, err);
    mem_free(text);
    return result;
}

/* ---- Studies by name ---- */

/* The folders in which studies lie, from the one that counts most. */
static int candidate_folder(int i, char out[FILE_PATH_MAX])
{
    static const char *const beside[] = { "../share/tuneup/studies", "../../studies" };
    const char *chosen = getenv("TUNEUP_STUDIES");
    char program[FILE_PATH_MAX];

    if (i == 0)
        return chosen && chosen[0] ? snprintf(out, FILE_PATH_MAX, "%s", chosen) : 0;
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return 0;
    program[n] = '\0';
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = '\0';
    return snprintf(out, FILE_PATH_MAX, "%s/%s", program, beside[i - 1]);
}

static void list_studies(const char *folder, char *out, size_t size)
{
    DIR *d = opendir(folder);

    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        const size_t n = strlen(e->d_name), used = strlen(out);

        if (n > 5 && strcmp(e->d_name + n - 5, ".yaml") == 0)
            snprintf(out + used, size - used, "%s%.*s", used ? ", " : "", (int)(n - 5), e->d_name);
    }
    if (d)
        closedir(d);
}

int study_file_find(char out[FILE_PATH_MAX], const char *name, struct err *err)
{
    char folder[FILE_PATH_MAX], known[400] = "";

    if (file_exists(name) || strchr(name, '/') || strchr(name, '.')) {
        if ((size_t)snprintf(out, FILE_PATH_MAX, "%s", name) >= FILE_PATH_MAX)
            return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", name);
        return 0;
    }
    for (int i = 0; i < 3; i++) {
        const int n = candidate_folder(i, folder);

        if (n <= 0 || n >= FILE_PATH_MAX)
            continue;
        if ((size_t)snprintf(out, FILE_PATH_MAX, "%s/%s.yaml", folder, name) < FILE_PATH_MAX && file_exists(out))
            return 0;
        if (!known[0])
            list_studies(folder, known, sizeof known);
    }
    err_set(err, ERR_INPUT, "there is no study file \"%.80s\", and no study of that name comes with the program", name);
    return err_hint(err, "Known by name: %s.", known[0] ? known : "none");
}
