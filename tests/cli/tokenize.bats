#!/usr/bin/env bats
# tuneup tokenizer train and tuneup tokenize, with a tokenizer made here.

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
    dir=$BATS_TEST_TMPDIR
    printf 'the cat sat on the mat, the cat\nthe mat\n' >"$dir/text"
    "$bin" tokenizer train -q --text "$dir/text" --vocab_size 264 --output "$dir/m"
    tokenize=("$bin" tokenize --model "$dir/m")
}

# The exit status is $1 and what is printed is $2.
check() {
    [ "$status" -eq "$1" ] && [ "$output" = "$2" ] || {
        echo "exit status $status: $output"
        return 1
    }
}

@test "training writes the four files, the same ones each time" {
    "$bin" tokenizer train -q --text "$dir/text" --vocab_size 264 --output "$dir/again"
    diff -r "$dir/m" "$dir/again"
    run ls "$dir/m"
    check 0 $'merges.txt\nspecial_tokens_map.json\ntokenizer_config.json\nvocab.json'
    run head -n 3 "$dir/m/merges.txt"
    check 0 $'#version: 0.2\na t\nh e'
}

@test "records are learnt from too" {
    printf '{"prompt": "ab ab", "chosen": "ab", "rejected": "ab"}\n' >"$dir/data.jsonl"
    "$bin" tokenizer train -q --data "$dir/data.jsonl" --vocab_size 261 --output "$dir/records"
    run tail -n 1 "$dir/records/merges.txt"
    check 0 'a b'
}

@test "words become ids, and back" {
    run "${tokenize[@]}" at he
    check 0 '2 260 36 261'
    run "${tokenize[@]}" --no-bos --json at
    check 0 '{"ids": [260]}'
    run "${tokenize[@]}" --decode 2 260 36 261
    check 0 '</s>at he'
    run "${tokenize[@]}" --decode --json '[260]'
    check 0 '{"text": "at"}'
}

@test "standard input is the text where there are no words" {
    run bash -c 'printf "at\0at" | "$@"' - "${tokenize[@]}"
    check 0 '2 260 4 260'
}

@test "JSON lines: a string or an object, with a byte order mark, empty lines and either line end" {
    run bash -c 'printf "\xef\xbb\xbf\"at\"\r\n\n{\"text\": \"a\\\\u0000\"}" | "$@" --jsonl' - "${tokenize[@]}"
    check 0 $'{"ids": [2, 260]}\n{"ids": [2, 101, 4]}'
    run bash -c 'printf "[2, 260]\n{\"ids\": [131, -1, 99999]}\n" | "$@" --jsonl --decode' - "${tokenize[@]}"
    check 0 $'{"text": "</s>at"}\n{"text": "\x7f"}'
}

@test "a malformed line is an error that names it" {
    for line in '{"txt": 1}' '[1]' '"a' '5' '{"text": 5}'; do
        run bash -c 'printf "\"a\"\n%s\n" "$1" | "${@:2}" --jsonl 2>&1 >/dev/null' - "$line" "${tokenize[@]}"
        [ "$status" -eq 2 ]
        [[ $output == *"line 2"* ]]
    done
    for line in '"a"' '[1.5]' '{"ids": 1}' '["a"]'; do
        run bash -c 'printf "[1]\n%s\n" "$1" | "${@:2}" --jsonl --decode 2>&1 >/dev/null' - "$line" "${tokenize[@]}"
        [ "$status" -eq 2 ]
        [[ $output == *"line 2"* ]]
    done
}

@test "what cannot be done is refused" {
    run "$bin" tokenize text
    [ "$status" -eq 2 ]
    [[ $output == *--model* ]]
    run "$bin" tokenize --model "$dir" text
    [ "$status" -eq 2 ]
    [[ $output == *vocab.json* ]]
    run "${tokenize[@]}" --decode 1 x
    [ "$status" -eq 2 ]
    run "${tokenize[@]}" --jsonl text
    [ "$status" -eq 2 ]
    run "$bin" tokenizer train --output "$dir/x"
    [ "$status" -eq 2 ]
    run "$bin" tokenizer train --text "$dir/text" --vocab_size 100 --output "$dir/x"
    [ "$status" -eq 2 ]
    run "$bin" tokenizer train --text "$dir/absent" --output "$dir/x"
    [ "$status" -eq 2 ]
    printf 'a\xff' >"$dir/bad"
    run "$bin" tokenizer train --text "$dir/bad" --output "$dir/x"
    [ "$status" -eq 2 ]
    [[ $output == *UTF-8* ]]
    [ ! -e "$dir/x" ]
}
