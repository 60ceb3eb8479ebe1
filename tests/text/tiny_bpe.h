/* tests/text/tiny_bpe.h - a tokenizer of OPT's form in memory: four tokens, 256 bytes as ids 4 and up, and what the merges make. */
#ifndef TUNEUP_TESTS_TINY_BPE_H
#define TUNEUP_TESTS_TINY_BPE_H

#include "test.h"
#include "text/bpe.h"
#include "text/unicode.h"

struct tiny {
    char vocab[16384], merges[1024];
    struct bpe_files files;
};

static inline size_t tiny_token(char *out, size_t at, const char *token, int id)
{
    const char *escape = *token == '"' || *token == '\\' ? "\\" : "";

    return at + (size_t)sprintf(out + at, "%s\"%s%s\": %d", id ? ", " : "{", escape, token, id);
}

static inline void tiny_init(struct tiny *t, const char *const *merges)
{
    static const char *const first[] = { "<s>", "<pad>", "</s>", "<unk>" };
    size_t at = 0;
    int id = 0;

    memset(t, 0, sizeof *t);
    for (; id < 4; id++)
        at = tiny_token(t->vocab, at, first[id], id);
    for (int i = 0; i < 256; i++) {
        char token[8] = "";
        unicode_put(unicode_of_byte((unsigned char)i), token);
        at = tiny_token(t->vocab, at, token, id++);
    }
    strcpy(t->merges, "#version: 0.2\n");
    for (int i = 0; merges && merges[i]; i++) {
        char token[64];
        const char *space = strchr(merges[i], ' ');
        snprintf(token, sizeof token, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        at = tiny_token(t->vocab, at, token, id++);
        strcat(strcat(t->merges, merges[i]), "\n");
    }
    strcpy(t->vocab + at, "}");
    t->files.vocab = (struct bpe_file){ "vocab.json", t->vocab, strlen(t->vocab) };
    t->files.merges = (struct bpe_file){ "merges.txt", t->merges, strlen(t->merges) };
}

#endif
