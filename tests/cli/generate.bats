#!/usr/bin/env bats
# tuneup generate and tuneup chat, with a tiny random model: what they read, write and refuse.

load sft_helpers

setup() {
    dir=$(mktemp -d)
    generate=("$bin" generate -q --model "$home/m" --threads 1 --max_new_tokens 6)
    chat=("$bin" chat -q --model "$home/m" --threads 1 --max_new_tokens 6)
}

# The keys' values of each line of $output, without the clock's.
values() {
    sed -E 's/"seconds": [0-9.e+-]+, //' <<<"$output"
}

# Exit status $1, and the words $2 in what is said.
refused() {
    local want=$1 words=$2
    shift 2
    run --separate-stderr "$@"
    [ "$status" -eq "$want" ] && [[ $stderr == *"$words"* ]] && [ -z "$output" ] || {
        echo "exit status $status: $output$stderr"
        return 1
    }
}

@test "an answer as JSON has its ids, text and counts" {
    run "${generate[@]}" --prompt "The sum is" --temperature 0 --json
    [ "$status" -eq 0 ]
    [[ $(values) =~ ^'{"ids": ['[0-9,\ ]+'], "text": "'.*'", "new_tokens": 6, "prompt_tokens": '[0-9]+', "finish": "length"}'$ ]]
}

@test "the text is that of the ids" {
    "${generate[@]}" --prompt "The sum is" --seed 5 --json >"$dir/json"
    "${generate[@]}" --prompt "The sum is" --seed 5 >"$dir/text"
    grep -o '"ids": \[[^]]*\]' "$dir/json" | sed 's/.*\[/{"ids": [/;s/$/}/' >"$dir/ids"
    "$bin" tokenize --model "$home/m" --decode --jsonl <"$dir/ids" | grep -o '"text": .*' | sed 's/}$//' >"$dir/decoded"
    grep -qF "$(cat "$dir/decoded")" "$dir/json"
    [ -s "$dir/text" ]
}

@test "answers depend on the seed, not on the batch" {
    printf 'One\n\nTwo words\r\nAnd three words\n' >"$dir/lines"
    run "${generate[@]}" --prompts "$dir/lines" --json --batch_size 1
    one=$(values)
    [ "$(wc -l <<<"$one")" -eq 3 ]
    run "${generate[@]}" --prompts "$dir/lines" --json --batch_size 3
    [ "$(values)" = "$one" ]
    printf '{"prompt": "One"}\n{"prompt": "Two words", "chosen": "x"}\n{"prompt": "And three words"}\n' |
        gzip >"$dir/records.gz"
    run "${generate[@]}" --prompts "$dir/records.gz" --json
    [ "$(values)" = "$one" ]
    run "${generate[@]}" --prompt One --prompt "Two words" --prompt="And three words" --json
    [ "$(values)" = "$one" ]
    run "${generate[@]}" --prompts "$dir/lines" --json --seed 99
    [ "$(values)" != "$one" ]
}

@test "several answers are told apart" {
    run "${generate[@]}" --prompt a --prompt b --temperature 0
    [[ $output == '==> 1 <=='* && $output == *'==> 2 <=='* ]]
}

@test "the largest top_k of one, a tiny top_p and no temperature are the same" {
    run "${generate[@]}" --prompt hello --temperature 0 --json
    greedy=$(values)
    run "${generate[@]}" --prompt hello --temperature 1 --top_k 1 --json
    [ "$(values)" = "$greedy" ]
    run "${generate[@]}" --prompt hello --temperature 1 --top_p 1e-9 --json
    [ "$(values)" = "$greedy" ]
}

@test "an answer ends at the model's last position" {
    run "${generate[@]}" --prompt hello --max_new_tokens 100000 --min_new_tokens 100000 --json
    [ "$status" -eq 0 ]
    total=$(sed -E 's/.*"new_tokens": ([0-9]+).*"prompt_tokens": ([0-9]+).*/\1 + \2/' <<<"$output")
    [ $((total)) -eq 128 ]
}

@test "both number formats and both backends answer" {
    for words in "--dtype bf16" "--backend ref" "--dtype bf16 --backend ref"; do
        # shellcheck disable=SC2086
        run "${generate[@]}" --prompt hello $words --json
        [ "$status" -eq 0 ]
        [[ $output == *'"new_tokens": 6'* ]]
    done
}

@test "what cannot be answered is refused" {
    refused 2 "no prompt" "${generate[@]}"
    refused 2 "a prompt is empty" "${generate[@]}" --prompt x --prompt ""
    refused 2 '"word"' "${generate[@]}" --prompt x word
    refused 2 --model "$bin" generate --prompt x
    refused 2 "128 positions" "${generate[@]}" --prompt "$(seq 200)"
    refused 2 "prompt 2, byte 1 of the text" "${generate[@]}" --prompt x --prompt $'a\xff'
    refused 2 "--top_p" "${generate[@]}" --prompt x --top_p 0
    refused 2 "--temperature" "${generate[@]}" --prompt x --temperature -1
    refused 3 "limit" "${generate[@]}" --prompt x --memory_limit 1M
    refused 2 absent "${generate[@]}" --prompts "$dir/absent"
    printf '\n\n' >"$dir/empty"
    refused 2 "no prompt in the file" "${generate[@]}" --prompts "$dir/empty"
    printf '{"prompt": "a"}\n{"chosen": "b"}\n' >"$dir/records"
    refused 2 "line 2" "${generate[@]}" --prompts "$dir/records"
    printf 'fine\n%s\n' "$(seq -s ' ' 300)" >"$dir/lines"
    refused 2 "line 2" "${generate[@]}" --prompts "$dir/lines"
}

@test "a folder without tokenizer, or with a wrong one, is refused" {
    cp -r "$home/m" "$dir/m"
    rm "$dir/m"/vocab.json
    refused 2 "no tokenizer" "$bin" generate --model "$dir/m" --prompt x
    refused 2 "no tokenizer" "$bin" chat --model "$dir/m"
    "$bin" tokenizer train -q --data "$home/data/train.jsonl" --vocab_size 600 --output "$dir/m"
    refused 2 "the model has embeddings for" "$bin" generate --model "$dir/m" --prompt x
}

@test "chat answers each line and remembers the lines before" {
    printf 'Hello\n\nAgain\r\n' >"$dir/lines"
    run --separate-stderr "${chat[@]}" --temperature 0 <"$dir/lines"
    [ "$status" -eq 0 ]
    both=$output
    # The second answer is what follows the whole conversation.
    first=$("${chat[@]}" --temperature 0 <<<Hello)
    [[ $both == "$first"* ]]
    run "${generate[@]}" --temperature 0 --prompt $'\n\nHuman: Hello\n\nAssistant:'"$first"$'\n\nHuman: Again\n\nAssistant:'
    [[ $first == *$'\xef\xbf\xbd'* ]] || [ "$both" = "$first"$'\n'"$output" ]
}

@test "chat leaves out what is no text, is too long, or no longer fits" {
    printf 'a\xffb\nHello\n' >"$dir/lines"
    run --separate-stderr "${chat[@]}" <"$dir/lines"
    [ "$status" -eq 0 ]
    [[ $stderr == *UTF-8* && -n $output ]]
    run --separate-stderr "${chat[@]}" <<<"$(seq -s ' ' 300)"
    [ "$status" -eq 0 ]
    [[ $stderr == *"128 positions"* && -z $output ]]
    printf 'tell me\n%.0s' {1..8} >"$dir/lines"
    run --separate-stderr "$bin" chat --model "$home/m" --threads 1 --max_new_tokens 20 --min_new_tokens 20 <"$dir/lines"
    [ "$status" -eq 0 ]
    [[ $stderr == *"outgrown the model's 128 positions"* && $stderr == *"cut at 20 tokens"* ]]
}

@test "chat takes no words, and ends quietly with its reader" {
    refused 2 "standard input" "${chat[@]}" hello
    run --separate-stderr bash -c 'set -o pipefail; yes | "$@" | head -n 1' - "${chat[@]}"
    [ "$status" -eq 141 ]
    [ -z "$stderr" ]
}

# Waits for a command to succeed, at most 30 s.
await() {
    for _ in {1..600}; do
        ! "$@" || return 0
        sleep 0.05
    done
    echo "never came: $*"
    return 1
}

shown() {
    [ "$(wc -c <"$dir/screen")" -gt "$1" ]
}

# An answer of thousands of ids is stopped once it has begun, and the conversation goes on to the terminal's end of input.
@test "Ctrl-C stops the answer, Ctrl-D ends the program" {
    command -v script >/dev/null || skip "no script(1) to make a terminal"
    "$bin" model new -q --size opt-tiny --hidden_size 64 --ffn_dim 64 --num_hidden_layers 2 --num_attention_heads 1 \
        --word_embed_proj_dim 64 --max_position_embeddings 8192 --tokenizer "$home/tok" "$dir/long"
    mkfifo "$dir/keys"
    script -qefc "$bin chat --model $dir/long --threads 1 --backend ref --max_new_tokens 8000 --min_new_tokens 8000" \
        /dev/null <"$dir/keys" >"$dir/screen" 3>&- &
    pid=$!
    exec 9>"$dir/keys"
    await grep -q '^> ' "$dir/screen"
    printf 'hello\n' >&9
    await shown $(($(wc -c <"$dir/screen") + 50))
    printf '\003' >&9
    await grep -q '(stopped)' "$dir/screen"
    printf '\004' >&9
    exec 9>&-
    wait $pid
    [[ $(<"$dir/screen") != *'cut at'* ]]
}
