/** A connection that is there while the page is seen. */

const LONGEST_PAUSE_MS = 10_000;

export class Connection {
  /**
   * `connect` reads from a connection to its end, and calls `heard()` when something has come; it
   * returns true if there will be no more. Otherwise it is called again, later each time in a row.
   * A browser has few connections to a server, so a page that nobody sees gives its own back.
   * `onProblem` is told the error of a connection that failed, and null when one works again.
   */
  constructor(connect, onProblem = () => {}) {
    this.connect = connect;
    this.onProblem = onProblem;
    this.isWanted = false;
    this.pause = 0;
    this.attempt = null;
    this.follow = () => (document.hidden ? this.breakOff() : this.resume());
  }

  start() {
    this.isWanted = true;
    document.addEventListener("visibilitychange", this.follow);
    this.resume();
  }

  stop() {
    this.isWanted = false;
    document.removeEventListener("visibilitychange", this.follow);
    this.breakOff();
  }

  /** Connects anew: with another key, say. */
  restart() {
    this.stop();
    this.start();
  }

  resume() {
    this.pause = 0;
    if (this.isWanted && !document.hidden && !this.attempt) this.open();
  }

  breakOff() {
    clearTimeout(this.timer);
    this.attempt?.abort();
    this.attempt = null;
  }

  async open() {
    const attempt = new AbortController();
    this.attempt = attempt;
    const heard = () => {
      if (this.pause) this.onProblem(null);
      this.pause = 0;
    };
    let problem = null;
    try {
      if (await this.connect(attempt.signal, heard)) return this.stop();
    } catch (error) {
      problem = error;
    }
    if (attempt !== this.attempt) return; // broken off by us
    this.attempt = null;
    const isFinal = problem && problem.status >= 400 && problem.status < 500;
    if (isFinal) this.stop();
    this.pause = Math.min(LONGEST_PAUSE_MS, Math.max(500, 2 * this.pause));
    this.onProblem(problem);
    if (!isFinal) this.timer = setTimeout(() => this.open(), this.pause);
  }
}
