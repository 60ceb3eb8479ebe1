/* A conversation's text, turn by turn. */
#include "text/chat.h"

#include "base/mem.h"
#include "test.h"

static void check_text(void **test_state, const struct chat *c, const char *want)
{
    struct err err = { 0 };
    size_t n;
    char *text = chat_text(c, &n, &err);

    CHECK_STR(text, want);
    CHECK_EQ(n, strlen(want));
    mem_free(text);
}

TEST(turns_become_the_form_of_the_data)
{
    struct chat c = { 0 };
    struct err err = { 0 };

    check_text(test_state, &c, "");
    CHECK_OK(chat_ask(&c, "Hello?!", 5, &err), &err);
    check_text(test_state, &c, "\n\nHuman: Hello\n\nAssistant:");
    CHECK_OK(chat_answer(&c, " H", 2, &err), &err);
    CHECK_OK(chat_answer(&c, "i.", 2, &err), &err);
    CHECK_OK(chat_answer(&c, "", 0, &err), &err);
    CHECK_OK(chat_ask(&c, "100 %s", 6, &err), &err);
    check_text(test_state, &c, "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: 100 %s\n\nAssistant:");
    chat_drop_first(&c);
    check_text(test_state, &c, "\n\nHuman: 100 %s\n\nAssistant:");
    chat_drop_last(&c);
    check_text(test_state, &c, "");
    chat_free(&c);
    chat_free(&c);
}

TEST(a_long_conversation_keeps_its_order)
{
    struct chat c = { 0 };
    struct err err = { 0 };
    char word[16];

    for (int i = 0; i < 50; i++) {
        snprintf(word, sizeof word, "%d", i);
        CHECK_OK(chat_ask(&c, word, strlen(word), &err), &err);
    }
    while (c.n_turns > 2)
        chat_drop_first(&c);
    check_text(test_state, &c, "\n\nHuman: 48\n\nAssistant:\n\nHuman: 49\n\nAssistant:");
    chat_free(&c);
}

TEST(memory_may_be_out)
{
    struct chat c = { 0 };
    struct err err;
    size_t n;

    for (int i = 1; i <= 2; i++) {
        mem_fail_at(i);
        CHECK_ERR(chat_ask(&c, "a", 1, &err), &err, ERR_MEMORY, "");
        mem_fail_at(0);
        CHECK_EQ(c.n_turns, 0);
    }
    CHECK_OK(chat_ask(&c, "a", 1, &err), &err);
    mem_fail_at(1);
    CHECK_ERR(chat_answer(&c, "b", 1, &err), &err, ERR_MEMORY, "");
    mem_fail_at(1);
    CHECK(!chat_text(&c, &n, &err));
    mem_fail_at(0);
    check_text(test_state, &c, "\n\nHuman: a\n\nAssistant:");
    chat_free(&c);
}

TEST_MAIN(CASE(turns_become_the_form_of_the_data), CASE(a_long_conversation_keeps_its_order), CASE(memory_may_be_out))
