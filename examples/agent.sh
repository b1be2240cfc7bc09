#!/bin/sh
# An agent for clawbroker in POSIX sh, awk and curl (7.55 or newer). It answers each request with what a command prints.
#
#   CLAWBROKER_API_KEY=oc-... ./agent.sh [COMMAND [ARGUMENT...]]
#
# COMMAND reads the request on its standard input; without one the agent says every request back (`cat`). It finds
# MESSAGE_ID, SENDER and ATTEMPT in its environment. If it fails, the request is given back and comes again later.
#
#   CLAWBROKER_URL       where the broker is (http://127.0.0.1:8000)
#   CLAWBROKER_API_KEY   the agent's key: `clawbroker agent key NAME` makes one
#   CLAWBROKER_LEASE     seconds for which a message is held without a heartbeat (120, at least 10)
#
# SIGTERM and SIGINT stop it in good order: what it works on is given back to the mailbox.
# A NUL character in an answer is left out, since the broker takes none; an answer must be UTF-8.
set -u
umask 077

url=${CLAWBROKER_URL:-http://127.0.0.1:8000}
url=${url%/}
lease=${CLAWBROKER_LEASE:-120}
key=${CLAWBROKER_API_KEY:?set it to a key of the agent}
dir=$(mktemp -d "${TMPDIR:-/tmp}/clawbroker-agent.XXXXXX") || exit 1
stopping=
leaving=
child=
beating=
input=/dev/null

say() { printf 'agent: %s\n' "$*" >&2; }

# A signal that meets the command before it has begun is lost: a second later it is told again.
stop() {
  stopping=1
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null
    (sleep 1 && kill "$child") >/dev/null 2>&1 &
  fi
}

tidy() {
  if [ -n "$beating" ]; then kill -KILL "$beating" 2>/dev/null; fi
  rm -rf "$dir"
}

trap stop TERM INT
trap tidy EXIT

# The key goes to curl in a file: arguments can be read by every user of the machine.
printf 'header = "%s"\n' "X-Api-Key: $key" "Content-Type: application/json" >"$dir/curl"
printf 'silent\nmax-time = 90\n' >>"$dir/curl"

# Runs a command that a signal to this script ends; it reads from the file $input. Returns its exit status.
# A signal may have come just before it was started; what is called on the way out ($leaving) is not ended by that.
run() {
  "$@" <"$input" &
  child=$!
  if [ -n "$stopping" ] && [ -z "$leaving" ]; then stop; fi
  wait "$child"
  ended=$?
  # A signal ends the wait before the command has ended; then it is waited for once more.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    ended=$?
  done
  child=
  return "$ended"
}

# ---- JSON -------------------------------------------------------------------------------------------------------

# Prints the value at a PATH such as `messages/0/id` of the JSON text in a FILE; nothing if it is null or not there.
# A quotation mark ends each record, so that what is read is in turn outside of a string and inside of one.
value() { # PATH FILE
  LC_ALL=C awk -v wanted="$1" '
    function found(raw, is_text,   path, i) {
      for (i = 1; i <= depth; i++) path = path "/" name[i]
      if (substr(path, 2) != wanted || done) return
      done = 1
      if (is_text) tell(raw)
      else if (raw != "null") printf "%s", raw
    }
    function bare_ends() {
      if (bare != "") found(bare, 0)
      bare = ""
    }
    function number(hex,   i, n) {
      for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", tolower(substr(hex, i, 1))) - 1
      return n
    }
    function utf8(n) {
      if (n < 128) return sprintf("%c", n)
      if (n < 2048) return sprintf("%c%c", 192 + int(n / 64), 128 + n % 64)
      if (n < 65536) return sprintf("%c%c%c", 224 + int(n / 4096), 128 + int(n / 64) % 64, 128 + n % 64)
      return sprintf("%c%c%c%c", 240 + int(n / 262144), 128 + int(n / 4096) % 64, 128 + int(n / 64) % 64, 128 + n % 64)
    }
    # Prints a text without its escapes: each part begins with what follows a backslash.
    function tell(text,   part, parts, i, c, n, low) {
      parts = split(text, part, /\\/)
      printf "%s", part[1]
      for (i = 2; i <= parts; i++) {
        c = substr(part[i], 1, 1)
        if (c == "") {
          printf "\\%s", part[++i]
          continue
        }
        if (c == "u") {
          n = number(substr(part[i], 2, 4))
          if (n >= 55296 && n < 56320 && length(part[i]) == 5 && substr(part[i + 1], 1, 1) == "u") {
            low = number(substr(part[++i], 2, 4))
            n = 65536 + (n - 55296) * 1024 + low - 56320
          }
          printf "%s%s", utf8(n), substr(part[i], 6)
          continue
        }
        printf "%s%s", (c in escape) ? escape[c] : c, substr(part[i], 2)
      }
    }
    BEGIN {
      RS = "\""
      escape["n"] = "\n"; escape["t"] = "\t"; escape["r"] = "\r"; escape["b"] = "\b"; escape["f"] = "\f"
    }
    inside {
      text = text $0
      # An odd number of backslashes: the quotation mark belongs to the text.
      if (match($0, /\\+$/) && RLENGTH % 2) { text = text "\""; next }
      inside = 0
      if (is_key[depth]) name[depth] = text
      else found(text, 1)
      next
    }
    {
      for (i = 1; i <= length($0); i++) {
        c = substr($0, i, 1)
        if (c == "{") { is_key[++depth] = 1; is_list[depth] = 0; name[depth] = "" }
        else if (c == "[") { is_key[++depth] = 0; is_list[depth] = 1; name[depth] = 0 }
        else if (c == "}" || c == "]") { bare_ends(); depth-- }
        else if (c == ":") is_key[depth] = 0
        else if (c == ",") { bare_ends(); if (is_list[depth]) name[depth]++; else is_key[depth] = 1 }
        else if (c !~ /[ \t\r\n]/) bare = bare c
      }
      inside = 1
      text = ""
    }
  ' "$2"
}

# Prints standard input as a JSON text, without line breaks at its end.
quoted() {
  tr -d '\000' | LC_ALL=C awk '
    function replaced(text, what, by,   part, parts, i, whole) {
      parts = split(text, part, what)
      whole = part[1]
      for (i = 2; i <= parts; i++) whole = whole by part[i]
      return whole
    }
    BEGIN {
      for (i = 1; i < 32; i++) code[sprintf("%c", i)] = sprintf("\\u%04x", i)
      printf "\""
    }
    {
      gsub(/\\/, "&&")
      line = replaced($0, "\"", "\\\"")
      for (c in code) if (index(line, c)) line = replaced(line, c, code[c])
      # Empty lines wait: those at the end are left out.
      if (line == "") { empty++; next }
      if (begun) printf "\\n"
      for (; empty > 0; empty--) printf "\\n"
      begun = 1
      printf "%s", line
    }
    END { printf "\"" }
  '
}

# ---- calls ------------------------------------------------------------------------------------------------------

# Calls the API: the status goes to $status (000: no answer), the body to $dir/answer.
call() { # PATH [CURL ARGUMENT...]
  path=$1
  shift
  rm -f "$dir/answer" "$dir/head"
  run curl --config "$dir/curl" --dump-header "$dir/head" --output "$dir/answer" --write-out '%{http_code}' "$@" \
    "$url/api/gateway/$path" >"$dir/status" 2>/dev/null
  status=$(cat "$dir/status")
  case $status in
    [1-5][0-9][0-9]) ;;
    *) status=000 ;;
  esac
  if [ "$status" = 401 ]; then
    say "the broker does not take the key: $(value detail "$dir/answer")"
    exit 1
  fi
}

# Waits before the next try: as long as the broker says, else twice as long as the last time.
pause() {
  asked=$(sed -n 's/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]: *\([0-9][0-9]*\).*/\1/p' "$dir/head" 2>/dev/null)
  say "status $status; next try in ${asked:-$delay} s"
  run sleep "${asked:-$delay}"
  delay=$((delay * 2))
  if [ "$delay" -gt 60 ]; then delay=60; fi
}

# Posts the body in $dir/body until the broker has said yes or no. Every one of these calls may be repeated.
insist() { # PATH
  delay=1
  tries=0
  while :; do
    leaving=$stopping
    call "$1" --data-binary "@$dir/body"
    leaving=
    case $status in
      000 | 429 | 5??) ;;
      2??) return 0 ;;
      *) say "$1: $(value error/code "$dir/answer"): $(value error/message "$dir/answer")" && return 1 ;;
    esac
    tries=$((tries + 1))
    # On the way out it does not wait for long: the lease ends by itself.
    if [ -n "$stopping" ] && [ "$tries" -ge 3 ]; then return 1; fi
    if [ -z "$stopping" ]; then pause; else sleep 1; fi
  done
}

give_back() { # SECONDS REASON
  printf '{"message_id": "%s", "delivery_attempt": %s, "delay_seconds": %s, "reason": "%s"}' \
    "$id" "$attempt" "$1" "$2" >"$dir/body"
  if insist nack; then say "gave $id back: $2"; fi
}

# Ends it for good: what was refused would be refused the next time, too.
give_up() { # REASON
  printf '{"message_id": "%s", "delivery_attempt": %s, "reason": "%s"}' "$id" "$attempt" "$1" >"$dir/body"
  if insist fail; then say "gave $id up: $1"; fi
}

# ---- the agent --------------------------------------------------------------------------------------------------

# Prolongs the lease three times in each until it is killed.
beat() {
  printf '{"working_on": [{"message_id": "%s", "delivery_attempt": %s}]}' "$id" "$attempt" >"$dir/beat"
  while sleep $((lease / 3)); do
    curl --config "$dir/curl" --data-binary "@$dir/beat" --output /dev/null "$url/api/gateway/heartbeat"
  done
}

# It may not have begun yet: then any other signal would meet the trap of this script in it, and be lost.
stop_beating() {
  kill -KILL "$beating" 2>/dev/null
  wait "$beating" 2>/dev/null
  beating=
}

answer_request() { # COMMAND...
  MESSAGE_ID=$id ATTEMPT=$attempt
  SENDER=$(value messages/0/sender_agent_name "$dir/mail")$(value messages/0/sender_user_name "$dir/mail")
  export MESSAGE_ID ATTEMPT SENDER
  value messages/0/content "$dir/mail" >"$dir/content"
  beat >/dev/null 2>&1 &
  beating=$!
  input=$dir/content
  run "$@" >"$dir/result"
  handled=$?
  input=/dev/null
  stop_beating
  if [ -n "$stopping" ] && [ "$handled" -ne 0 ]; then
    give_back 0 "the agent stops"
  elif [ "$handled" -ne 0 ]; then
    give_back 30 "the command ended with status $handled"
  else
    # A report must say something.
    if ! grep -q . "$dir/result"; then echo "(no answer)" >"$dir/result"; fi
    { printf '{"message_id": "%s", "delivery_attempt": %s, "result": ' "$id" "$attempt" && quoted <"$dir/result" &&
      printf '}'; } >"$dir/body"
    if insist report; then
      say "answered $id"
    else
      case $status in
        404 | 409 | 429 | 000 | 5??) ;; # it is another's now, or nobody's; or it comes again when its lease is over
        *) give_up "the answer was refused: $(value error/code "$dir/answer")" ;;
      esac
    fi
  fi
}

# A reply or a notice is read, and never answered: two agents would thank each other for ever.
take_note() {
  printf '%s %s: ' "$kind" "$(value messages/0/in_reply_to "$dir/mail")"
  value messages/0/content "$dir/mail"
  echo
  printf '{"message_ids": ["%s"]}' "$id" >"$dir/body"
  insist ack
}

main() {
  if [ $# -eq 0 ]; then set -- cat; fi
  delay=1
  while [ -z "$stopping" ]; do
    began=$(date +%s)
    call "poll?wait=30&limit=1&ack=explicit&lease=$lease"
    case $status in
      200) ;;
      429 | [!4]??)
        if [ -z "$stopping" ]; then pause; fi
        continue
        ;;
      *)
        # It would say no again: to a lease, for example, that is too short.
        say "$status $(value error/code "$dir/answer"): $(value error/message "$dir/answer")"
        exit 1
        ;;
    esac
    delay=1
    mv "$dir/answer" "$dir/mail"
    id=$(value messages/0/id "$dir/mail")
    if [ -z "$id" ]; then
      # A broker may be set to let nobody wait: then it is not asked all the time.
      if [ $(($(date +%s) - began)) -lt 2 ] && [ -z "$stopping" ]; then run sleep 5; fi
      continue
    fi
    attempt=$(value messages/0/delivery_attempt "$dir/mail")
    kind=$(value messages/0/kind "$dir/mail")
    if [ -n "$stopping" ]; then
      give_back 0 "the agent stops"
    elif [ "$kind" = request ]; then
      answer_request "$@"
    else
      take_note
    fi
  done
  say "stopped"
}

main "$@"
