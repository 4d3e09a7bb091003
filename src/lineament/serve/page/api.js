// What the server answers. A busy server is asked again.

const TRIES = 8;

export class Refused extends Error {}

function query(options) {
  return new URLSearchParams(Object.entries(options).flatMap(([name, value]) => [value].flat().map((each) => [name, each])));
}

async function send(path, file, options, signal) {
  const body = new FormData();
  body.append("photos", file, file.name || "photo.jpg");
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(`v1/${path}?${query(options)}`, { method: "POST", body, signal }).catch((error) => {
      throw error.name === "AbortError" ? error : new Refused("The server does not answer. Is it still running?");
    });
    if (answer.status !== 429 || attempt === TRIES) return answer;
    await new Promise((go) => setTimeout(go, 1000 * Number(answer.headers.get("Retry-After") || 1)));
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `The server answers ${answer.status}.`;
  }
}

export async function models() {
  const answer = await fetch("v1/models");
  if (!answer.ok) throw new Refused(await reason(answer));
  return answer.json();
}

// The record of a photo, as a line of `lineament detect --json`. Its `error` says why it could not be read.
export async function detect(file, options, signal) {
  const answer = await send("detect", file, options, signal);
  const told = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  if (!told.results) throw new Refused(told.error);
  return told.results[0];
}

// A photo that the server made, of the route "draw" or "redact".
export async function made(path, file, options) {
  const answer = await send(path, file, options);
  if (!answer.ok) throw new Refused(await reason(answer));
  return answer.blob();
}
