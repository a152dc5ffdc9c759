/** A list of elements that stay what they are while what they show changes. */

/**
 * Shows items in a place, each by a view `{ element, show(item) }` that is kept as long as an item
 * has its key: what is focused or being pressed is not replaced under the hand.
 */
export class Keyed {
  constructor(place, keyOf, make) {
    this.place = place;
    this.keyOf = keyOf;
    this.make = make;
    this.views = new Map();
  }

  show(items) {
    const kept = new Map();
    for (const item of items) {
      const key = this.keyOf(item);
      const view = this.views.get(key) ?? this.make(item);
      view.show(item);
      kept.set(key, view);
    }
    for (const [key, view] of this.views) if (!kept.has(key)) view.element.remove();
    this.views = kept;
    let at = this.place.firstElementChild;
    for (const { element } of kept.values()) {
      if (element === at) at = at.nextElementSibling;
      else this.place.insertBefore(element, at);
    }
  }
}

/** Gives an element its text, and leaves it alone if it has it: somebody may be marking it. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
