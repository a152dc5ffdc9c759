/** What the dashboard asks of the server; see /openapi.json. */

import { send, watch } from "../api.js";
import { readLines } from "../lines.js";

/** What is deployed, and then its changes: `{ apps, gone, deployments }`; of one app if named. */
export async function* watchDeployed(app, signal) {
  const query = app === null ? "" : `?app=${encodeURIComponent(app)}`;
  for await (const { data } of watch(`/deployed/events${query}`, 0, signal)) yield data;
}

/** What a deployment is at, the events behind `after`: `{ id, data }`. */
export function watchDeployment(id, after, signal) {
  return watch(`/deployments/${id}/events`, after, signal);
}

/** The last lines of a replica's log, and those to come: `{ time, stream, level, message, … }`. */
export async function* watchLog(replica, signal) {
  const response = await send(`/runners/${replica}/logs?follow=1&limit=1000`, { signal });
  for await (const line of readLines(response.body)) yield JSON.parse(line);
}

/** What was deployed of an app, the newest first. */
export async function listRevisions(app) {
  return (await (await send(`/apps/${app}/revisions`)).json()).revisions;
}

/** Brings a revision into service again. */
export function setRevision(app, revision, strategy) {
  const json = { revision, strategy };
  return send(`/apps/${app}/revisions/current`, { method: "PUT", json });
}

/** Replaces all replicas of an app by new ones. */
export function rollOut(app, strategy) {
  return send(`/apps/${app}/rollout`, { method: "POST", json: { strategy } });
}

/** Changes options of an app; null goes back to what its revision says. */
export async function scale(app, json) {
  return (await send(`/apps/${app}/scaling`, { method: "PATCH", json })).json();
}

/** Cancels all requests of an app that wait; how many there were. */
export async function flushQueue(app) {
  return (await (await send(`/apps/${app}/queue`, { method: "DELETE" })).json()).cancelled;
}

/** The newest requests of an app, in a state if one is given. */
export async function listRequests(app, state, limit) {
  const query = new URLSearchParams({ limit, ...(state ? { state } : {}) });
  return (await (await send(`/queue/${app}/requests?${query}`)).json()).requests;
}

/** The replicas of an app that have ended since a time. */
export async function listEnded(app, since) {
  const { runners } = await (await send(`/runners?since=${since}`)).json();
  return runners.filter((each) => each.app === app && each.state === "terminated");
}

/** Ends a replica: `stop` lets it do what it works on, `kill` does not. */
export function endReplica(id, how) {
  return send(`/runners/${id}/${how}`, { method: "POST" });
}
