#!/bin/sh
# The answer as JSON, and drawn. PHOTO, URL and KEY (if the service has keys) come from the environment.
set -eu
PHOTO=${PHOTO:-photo.jpg} URL=${URL:-http://localhost:3000} KEY=${KEY:-none}

curl --fail-with-body --silent --show-error -H "X-API-Key: $KEY" -F "image=@$PHOTO" "$URL/predict?top_k=1"
curl --fail-with-body --silent --show-error -H "X-API-Key: $KEY" -H 'Accept: image/png' \
    --data-binary "@$PHOTO" -H 'Content-Type: image/*' --output answer.png "$URL/predict"
