# Words for scripts that check things: each says `ok   NAME` or `FAIL NAME`, and FAIL is counted.
failures=0

fail() {
    failures=$((failures + 1))
    echo "FAIL $1"
    shift
    [ $# -eq 0 ] || printf '%s\n' "$@" | sed 's/^/     /'
}

# check NAME WANTED COMMAND...: the command's output holds the wanted text.
check() {
    name=$1 wanted=$2
    shift 2
    said=$("$@" 2>&1)
    case $said in
        *"$wanted"*) echo "ok   $name" ;;
        *) fail "$name" "wanted: $wanted" "said: $said" ;;
    esac
}

# works NAME COMMAND...: it ends without an error.
works() {
    name=$1
    shift
    if said=$("$@" 2>&1); then echo "ok   $name"; else fail "$name" "$said"; fi
}

# no NAME TEXT: nothing is left of it.
no() {
    if [ -z "$2" ]; then echo "ok   $1"; else fail "$1" "$2"; fi
}

# await SECONDS WANTED COMMAND...: until the output holds the text.
await() {
    left=$(($1 * 5)) wanted=$2
    shift 2
    until "$@" 2>&1 | grep -q "$wanted"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        usleep 200000
    done
}
