#!/bin/sh
# Writes .env for compose.yaml, once: three secrets that nobody has to know, and this machine's places.
set -eu
cd "$(dirname "$0")/.."
umask 077
if [ -e .env ]; then
  echo ".env is there already; delete it to make new secrets (the database keeps its old one)" >&2
  exit 2
fi
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
cat > .env <<END
POSTGRES_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
# What the dashboard asks for, as user:password.
PREFECT_AUTH=admin:$(secret)
# The patients' photos, read only; and how many classes a GPU makes at a time.
PHOTOS=/nowhere
SLOTS=1
END
echo "wrote .env; set PHOTOS in it"
