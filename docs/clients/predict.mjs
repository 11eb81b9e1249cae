// With fetch, in a browser (where the operator has set CORS_ORIGINS) or in node 18 or newer.
import { readFile } from "node:fs/promises";

const { PHOTO = "photo.jpg", URL: url = "http://localhost:3000", KEY = "none" } = process.env;

async function predict(photo, options = {}) {
  const form = new FormData();
  form.append("image", new Blob([photo]), "photo");
  for (const [name, value] of Object.entries(options)) form.append(name, String(value));
  const response = await fetch(`${url}/predict`, {
    method: "POST",
    headers: { Authorization: `Bearer ${KEY}` },
    body: form,
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.status}: ${answer.detail} (request ${answer.request_id})`);
  return answer;
}

const answer = await predict(await readFile(PHOTO), { top_k: 1 });
console.log(`plain: ${answer.plain.top_k[0].label}`);
