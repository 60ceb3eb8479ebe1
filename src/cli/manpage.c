/* man(7) rather than mdoc(7): every man program reads it, and the tables have no more structure than it can say.
 * roff takes "\", a leading "." or "'" and "-" for itself, so every word from a table goes through put_text. */
#include "cli/manpage.h"

#include <string.h>

static void put_text(FILE *out, const char *text)
{
    bool start = true;

    for (const char *p = text; *p; p++) {
        if (start && (*p == '.' || *p == '\''))
            fputs("\\&", out);
        if (*p == '\\')
            fputs("\\e", out);
        else if (*p == '-')
            fputs("\\-", out);
        else
            fputc(*p, out);
        start = *p == '\n';
    }
}

/* The command's name with its spaces as "-", as man pages are named. */
static void put_name(FILE *out, const char *name)
{
    for (; *name; name++)
        fputs(*name == ' ' || *name == '-' ? "\\-" : (char[]){ *name, '\0' }, out);
}

static void put_section(FILE *out, const char *title, const char *text)
{
    fprintf(out, ".SH %s\n", title);
    put_text(out, text);
    if (*text && text[strlen(text) - 1] != '\n')
        fputc('\n', out);
}

static void put_examples(FILE *out, const char *text)
{
    fputs(".SH EXAMPLES\n.EX\n", out);
    put_text(out, text);
    fputs(".EE\n", out);
}

static const char *value_name(const struct option *o)
{
    return o->choices ? o->choices : o->value ? o->value : "VALUE";
}

static void put_option(FILE *out, const struct option *o)
{
    fputs(".TP\n\\fB\\-\\-", out);
    put_text(out, o->name);
    fputs("\\fR", out);
    if (o->alias) {
        fputs(", \\fB\\-\\-", out);
        put_text(out, o->alias);
        fputs("\\fR", out);
    }
    if (o->type != OPTION_FLAG) {
        fputs(" \\fI", out);
        put_text(out, value_name(o));
        fputs("\\fR", out);
    }
    fputc('\n', out);
    put_text(out, o->help);
    if (o->fallback) {
        fputs(" [", out);
        put_text(out, o->fallback);
        fputc(']', out);
    }
    fputc('\n', out);
}

static void put_options(FILE *out, const struct option_set *sets, int n_sets)
{
    fputs(".SH OPTIONS\nIn names, \\- and _ are alike.\n", out);
    for (int s = 0; s < n_sets; s++) {
        if (s == 0 || strcmp(sets[s].title, sets[s - 1].title) != 0) {
            fputs(".SS ", out);
            put_text(out, sets[s].title);
            fputc('\n', out);
        }
        for (const struct option *o = sets[s].options; o->name; o++)
            if (sets[s].prefix)
                fprintf(out, "\\-\\-%s%s\n", sets[s].prefix, o->name);
            else
                put_option(out, o);
    }
}

/* Without a date: the same source gives the same page. */
static void put_head(FILE *out, const char *name, const char *summary)
{
    fputs(".TH tuneup", out);
    if (name) {
        fputs("\\-", out);
        put_name(out, name);
    }
    fputs(" 1 \"\" \"tuneup " TUNEUP_VERSION "\"\n.SH NAME\ntuneup", out);
    if (name) {
        fputs("\\-", out);
        put_name(out, name);
    }
    fputs(" \\- ", out);
    put_text(out, summary);
    fputc('\n', out);
}

static void put_status(FILE *out)
{
    static const struct {
        const char *code, *meaning;
    } codes[] = {
        { "0", "done" },
        { "1", "failed at run time" },
        { "2", "usage, or bad input" },
        { "3", "infeasible: a memory limit or a constraint cannot be met" },
        { "4", "a required measurement is unavailable on this machine" },
        { "130, 143", "stopped by SIGINT or SIGTERM, after saving" },
    };

    fputs(".SH EXIT STATUS\n", out);
    for (int i = 0; i < COUNT_OF(codes); i++)
        fprintf(out, ".TP\n.B %s\n%s\n", codes[i].code, codes[i].meaning);
}

void manpage_program(FILE *out, const struct option_set *global)
{
    put_head(out, NULL, "fine-tune OPT models, and measure what each optimization does to time, memory and energy");
    fputs(".SH SYNOPSIS\n.B tuneup\n.I command\n[\\fIoptions\\fR]\n", out);
    put_section(
        out, "DESCRIPTION",
        "Fine-tunes OPT-family language models in the three phases of RLHF (supervised fine-tuning, reward model, "
        "PPO), and measures time, peak memory and energy of every phase with every optimization.\n"
        "Results go to standard output, everything else to standard error. Nothing is ever sent over a network, "
        "and no file beside the program itself is needed to run it.\n");
    fputs(".SH COMMANDS\n", out);
    for (int i = 0; commands[i]; i++) {
        fputs(".TP\n.BR tuneup\\-", out);
        put_name(out, commands[i]->name);
        fputs(" (1)\n", out);
        put_text(out, commands[i]->summary);
        fputc('\n', out);
    }
    put_options(out, global, 1);
    fputs(".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nWhen set, no colour is used.\n"
          ".TP\n.B OMP_NUM_THREADS\nThreads of each rank.\n"
          ".TP\n.BR GOMP_SPINCOUNT \", \" OMP_WAIT_POLICY\nHow long a thread that waits for others keeps its core. "
          "Unless "
          "one of them is set the program takes 1000 for the first, which leaves the cores to others that work on the "
          "machine.\n",
          out);
    put_status(out);
}

void manpage_command(FILE *out, const struct command *c, const struct option_set *sets, int n_sets)
{
    put_head(out, c->name, c->summary);
    put_section(out, "SYNOPSIS", c->usage);
    if (c->details)
        put_section(out, "DESCRIPTION", c->details);
    if (c->examples)
        put_examples(out, c->examples);
    put_options(out, sets, n_sets);
    put_status(out);
    fputs(".SH SEE ALSO\n.BR tuneup (1)\n", out);
}

/* The words an option can be completed to, in the style that help shows. */
static void put_option_words(FILE *out, const struct option_set *sets, int n_sets)
{
    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; o->name; o++)
            if (sets[s].prefix || !o->alias || strlen(o->alias) == 1)
                fprintf(out, " --%s%s", sets[s].prefix ? sets[s].prefix : "", o->name);
            else
                fprintf(out, " --%s --%s", o->name, o->alias);
}

static void put_choice(FILE *out, const char *prefix, const struct option *o)
{
    fprintf(out, "        --%s%s", prefix ? prefix : "", o->name);
    if (o->alias && !prefix)
        fprintf(out, " | --%s", o->alias);
    fputs(") words=\"", out);
    for (const char *c = o->choices; *c; c++)
        fputc(*c == '|' ? ' ' : *c, out);
    fputs("\" ;;\n", out);
}

static void put_command_case(FILE *out, const struct command *c, const struct option_set *global)
{
    struct option_set sets[COMMAND_MAX_SETS];
    int n_sets = c->sets(sets);

    MUST(n_sets < COMMAND_MAX_SETS);
    sets[n_sets++] = *global;
    fprintf(out, "    \"%s \"*)\n        words=\"", c->name);
    put_option_words(out, sets, n_sets);
    fputs("\"\n        case $previous in\n", out);
    for (int s = 0; s < n_sets; s++)
        for (const struct option *o = sets[s].options; o->name; o++)
            if (o->type == OPTION_CHOICE)
                put_choice(out, sets[s].prefix, o);
    fputs("        esac\n        ;;\n", out);
}

/* The second words of the commands that have two: "check" and "new" for "data". */
static void put_second_words(FILE *out)
{
    for (int i = 0; commands[i]; i++) {
        const char *space = strchr(commands[i]->name, ' ');
        const int n = space ? (int)(space - commands[i]->name) : 0;

        if (!space || (i > 0 && strncmp(commands[i - 1]->name, commands[i]->name, (size_t)n + 1) == 0))
            continue;
        fprintf(out, "    \"%.*s \"*) words=\"", n, commands[i]->name);
        for (int k = i; commands[k]; k++)
            if (strncmp(commands[k]->name, commands[i]->name, (size_t)n + 1) == 0)
                fprintf(out, " %s", commands[k]->name + n + 1);
        fputs("\" ;;\n", out);
    }
}

void manpage_completion(FILE *out, const struct option_set *global)
{
    fputs("# bash completion of tuneup, printed by \"tuneup help --completion\"\n"
          "_tuneup()\n{\n"
          "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=\n\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n        words=\"",
          out);
    for (int i = 0; commands[i]; i++)
        fprintf(out, " %.*s", (int)strcspn(commands[i]->name, " "), commands[i]->name);
    put_option_words(out, global, 1);
    fputs("\"\n    fi\n    case \"${COMP_WORDS[*]:1:COMP_CWORD - 1} \" in\n", out);
    for (int i = 0; commands[i]; i++)
        put_command_case(out, commands[i], global);
    put_second_words(out);
    fputs("    esac\n"
          "    # An empty answer lets bash complete file names.\n"
          "    if [[ $current == -* || $words != *\" --\"* || $COMP_CWORD == 1 ]]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
          "    fi\n"
          "}\n"
          "complete -o default -F _tuneup tuneup\n",
          out);
}
