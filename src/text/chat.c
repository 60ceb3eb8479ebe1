/* A turn is kept as the text it becomes, so a conversation is its turns one after the other. */
#include "text/chat.h"

#include <string.h>

#include "base/mem.h"

int chat_ask(struct chat *c, const char *question, size_t n, struct err *err)
{
    const int bytes = (int)n;

    if (n > INT32_MAX / 2)
        return err_set(err, ERR_INPUT, "a message of %zu bytes is too long", n);
    if (c->n_turns == c->room) {
        struct chat_turn *grown = mem_resize(c->turns, 2 * c->room + 8, sizeof *grown, MEM_TEXT, err);
        if (!grown)
            return -1;
        c->turns = grown;
        c->room = 2 * c->room + 8;
    }
    char *text = mem_printf(MEM_TEXT, err, CHAT_HUMAN " %.*s" CHAT_ASSISTANT, bytes, question);
    if (!text)
        return -1;
    c->turns[c->n_turns++] = (struct chat_turn){ text, strlen(text) };
    return 0;
}

int chat_answer(struct chat *c, const char *text, size_t n, struct err *err)
{
    struct chat_turn *last = &c->turns[c->n_turns - 1];
    char *grown = mem_resize(last->text, (int64_t)(last->n + n + 1), 1, MEM_TEXT, err);

    if (!grown)
        return -1;
    if (n > 0)
        memcpy(grown + last->n, text, n);
    last->text = grown;
    last->n += n;
    return 0;
}

void chat_drop_first(struct chat *c)
{
    mem_free(c->turns[0].text);
    c->n_turns--;
    memmove(c->turns, c->turns + 1, (size_t)c->n_turns * sizeof *c->turns);
}

void chat_drop_last(struct chat *c)
{
    mem_free(c->turns[--c->n_turns].text);
}

char *chat_text(const struct chat *c, size_t *n, struct err *err)
{
    size_t total = 0, at = 0;

    for (int i = 0; i < c->n_turns; i++)
        total += c->turns[i].n;
    char *text = mem_array((int64_t)total + 1, 1, 1, MEM_TEXT, err);
    for (int i = 0; text && i < c->n_turns; i++) {
        memcpy(text + at, c->turns[i].text, c->turns[i].n);
        at += c->turns[i].n;
    }
    *n = total;
    return text;
}

void chat_free(struct chat *c)
{
    while (c->n_turns > 0)
        chat_drop_last(c);
    mem_free(c->turns);
    *c = (struct chat){ 0 };
}
