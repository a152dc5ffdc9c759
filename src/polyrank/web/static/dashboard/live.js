/** What is deployed, as it is now. */

import { watchDeployed } from "./calls.js";
import { Connection } from "./connection.js";

/** Says "change" when something has changed, and "problem" when it cannot know. */
export class Live extends EventTarget {
  /** Of one app, or of all if `app` is null. */
  constructor(app = null) {
    super();
    this.app = app;
    this.apps = new Map();
    this.deployments = new Map();
    this.isKnown = false;
    this.problem = null;
    this.connection = new Connection(
      (signal, heard) => this.read(signal, heard),
      (problem) => this.note(problem),
    );
  }

  async read(signal, heard) {
    let isFirst = true;
    for await (const event of watchDeployed(this.app, signal)) {
      heard();
      if (isFirst) {
        this.apps.clear();
        this.deployments.clear();
      }
      isFirst = false;
      for (const app of event.apps) this.apps.set(app.name, app);
      for (const name of event.gone) this.apps.delete(name);
      for (const each of event.deployments) this.deployments.set(each.id, each);
      this.isKnown = true;
      this.problem = null;
      this.dispatchEvent(new Event("change"));
    }
  }

  note(problem) {
    this.problem = problem;
    this.dispatchEvent(new Event("problem"));
  }

  /** The apps, by name. */
  list() {
    return [...this.apps.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
  }

  /** The deployments of an app, the newest first. */
  deploymentsOf(app) {
    return [...this.deployments.values()]
      .filter((each) => each.app === app)
      .sort((one, other) => other.begun_at - one.begun_at);
  }
}
