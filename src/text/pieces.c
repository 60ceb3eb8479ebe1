/* The only file that knows PCRE2. Anchored and without captures; runs are possessive, so that the only way back is the
 * one character of "spaces not before a non-space", and a run of any length takes linear time and constant stack. */
#include "text/pieces.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/log.h"
#include "base/mem.h"

#define SPACE "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static const char pattern[] = "'(?:[stmd]|re|ve|ll)"
                              "| ?\\p{L}++"
                              "| ?\\p{N}++"
                              "| ?[^" SPACE "\\p{L}\\p{N}]++"
                              "|[" SPACE "]+(?![^" SPACE "])"
                              "|[" SPACE "]+";

static void *allocate(size_t bytes, void *unused)
{
    struct err ignored; /* PCRE2 reports a failed allocation itself */

    (void)unused;
    return bytes > PTRDIFF_MAX ? NULL : mem_array((int64_t)bytes, 1, 1, MEM_TEXT, &ignored);
}

static void release(void *p, void *unused)
{
    (void)unused;
    mem_free(p);
}

static int failed(const char *what, int code, struct err *err)
{
    PCRE2_UCHAR message[160] = "";

    pcre2_get_error_message(code, message, sizeof message);
    const bool memory = code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAP_FAILED;
    return err_set(err, memory ? ERR_MEMORY : ERR_SYSTEM, "could not %s: PCRE2 says \"%s\"", what,
                   (const char *)message);
}

int pieces_open(struct pieces *p, struct err *err)
{
    int code;
    PCRE2_SIZE at;

    *p = (struct pieces){ 0 };
    pcre2_general_context *memory = pcre2_general_context_create(allocate, release, NULL);
    if (!memory)
        return failed("prepare the tokenizer's pattern", PCRE2_ERROR_NOMEMORY, err);
    pcre2_compile_context *context = pcre2_compile_context_create(memory);
    pcre2_code *compiled = NULL;
    if (context)
        compiled = pcre2_compile((PCRE2_SPTR)pattern, sizeof pattern - 1, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code,
                                 &at, context);
    else
        code = PCRE2_ERROR_NOMEMORY;
    pcre2_compile_context_free(context);
    if (!compiled) {
        pcre2_general_context_free(memory);
        return failed("prepare the tokenizer's pattern", code, err);
    }
    code = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    if (code != 0)
        log_detail("the tokenizer's pattern is interpreted, which is slower: no JIT here (PCRE2 error %d)", code);
    *p = (struct pieces){ memory, compiled };
    return 0;
}

void pieces_close(struct pieces *p)
{
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->memory);
    *p = (struct pieces){ 0 };
}

int piece_cursor_init(struct piece_cursor *c, const struct pieces *p, struct err *err)
{
    *c = (struct piece_cursor){ .pieces = p, .match = pcre2_match_data_create(1, p->memory) };
    return c->match ? 0 : failed("split the text", PCRE2_ERROR_NOMEMORY, err);
}

void piece_cursor_set(struct piece_cursor *c, const char *text, size_t n)
{
    c->text = text;
    c->n = n;
    c->at = 0;
}

int piece_cursor_step(struct piece_cursor *c, const char **piece, size_t *n, struct err *err)
{
    if (c->at >= c->n)
        return 0;
    const int code = pcre2_match(c->pieces->code, (PCRE2_SPTR)c->text, c->n, c->at, PCRE2_NO_UTF_CHECK, c->match, NULL);
    if (code < 0) {
        failed("split the text", code, err);
        return err_where(err, "byte %zu of the text", c->at);
    }
    const size_t end = pcre2_get_ovector_pointer(c->match)[1];
    MUST(end > c->at);
    *piece = c->text + c->at;
    *n = end - c->at;
    c->at = end;
    return 1;
}

void piece_cursor_free(struct piece_cursor *c)
{
    pcre2_match_data_free(c->match);
    *c = (struct piece_cursor){ 0 };
}
