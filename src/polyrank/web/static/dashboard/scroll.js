/** A box that grows at its end, and stays there unless its reader has scrolled up. */

export class Scroll {
  constructor(element) {
    this.element = element;
    this.waiting = [];
  }

  /** Adds an entry; of more than `most`, the first are dropped. */
  append(entry, most) {
    this.waiting.push(entry);
    this.most = most;
    // Lines come in thousands: they are laid out together.
    this.timer ??= setTimeout(() => this.flush(), 16);
  }

  clear() {
    this.waiting = [];
    this.element.replaceChildren();
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    const { element } = this;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    element.append(...this.waiting.splice(0));
    while (element.childElementCount > this.most) element.firstElementChild.remove();
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
}
