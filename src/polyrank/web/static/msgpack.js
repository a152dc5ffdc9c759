/**
 * MessagePack, as realtime endpoints speak it.
 *
 * The format: https://github.com/msgpack/msgpack/blob/master/spec.md
 */

/** The bytes of a JSON value; `Uint8Array` becomes binary. */
export function encode(value) {
  const bytes = [];
  write(bytes, value);
  return Uint8Array.from(bytes);
}

/** The value that bytes hold; binary becomes `Uint8Array`, extensions are `null`. */
export function decode(buffer) {
  const reader = new Reader(buffer instanceof Uint8Array ? buffer : new Uint8Array(buffer));
  return reader.read();
}

function write(bytes, value) {
  if (value === null || value === undefined) bytes.push(0xc0);
  else if (value === false) bytes.push(0xc2);
  else if (value === true) bytes.push(0xc3);
  else if (typeof value === "number") writeNumber(bytes, value);
  else if (typeof value === "string") writeText(bytes, value);
  else if (value instanceof Uint8Array) {
    writeHead(bytes, value.length, [null, 0xc4, 0xc5, 0xc6]);
    append(bytes, value);
  } else if (Array.isArray(value)) {
    writeHead(bytes, value.length, [0x90, null, 0xdc, 0xdd], 15);
    for (const each of value) write(bytes, each);
  } else {
    const entries = Object.entries(value).filter(([, each]) => each !== undefined);
    writeHead(bytes, entries.length, [0x80, null, 0xde, 0xdf], 15);
    for (const [name, each] of entries) {
      writeText(bytes, name);
      write(bytes, each);
    }
  }
}

function writeText(bytes, text) {
  const encoded = new TextEncoder().encode(text);
  writeHead(bytes, encoded.length, [0xa0, 0xd9, 0xda, 0xdb], 31);
  append(bytes, encoded);
}

/** A length after the tag for its size: inside the tag, in 1, in 2 or in 4 bytes. */
function writeHead(bytes, length, [fixed, one, two, four], mostFixed = -1) {
  if (length <= mostFixed) bytes.push(fixed | length);
  else if (one !== null && length < 2 ** 8) bytes.push(one, length);
  else if (length < 2 ** 16) bytes.push(two, length >> 8, length & 0xff);
  else bytes.push(four, ...bigEndian(4, (view) => view.setUint32(0, length)));
}

function writeNumber(bytes, value) {
  if (!Number.isSafeInteger(value)) {
    bytes.push(0xcb, ...bigEndian(8, (view) => view.setFloat64(0, value)));
  } else if (value >= 0 && value < 128) bytes.push(value);
  else if (value < 0 && value >= -32) bytes.push(value & 0xff);
  else if (value >= -(2 ** 31) && value < 2 ** 31) {
    bytes.push(0xd2, ...bigEndian(4, (view) => view.setInt32(0, value)));
  } else bytes.push(0xd3, ...bigEndian(8, (view) => view.setBigInt64(0, BigInt(value))));
}

function bigEndian(size, fill) {
  const view = new DataView(new ArrayBuffer(size));
  fill(view);
  return new Uint8Array(view.buffer);
}

// Spreading a large array into push() would overflow the stack.
function append(bytes, more) {
  for (const byte of more) bytes.push(byte);
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  read() {
    const tag = this.number("Uint8", 1);
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.map(tag & 0x0f);
    if (tag < 0xa0) return this.array(tag & 0x0f);
    if (tag < 0xc0) return this.text(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    return this.readTagged(tag);
  }

  readTagged(tag) {
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.take(this.length(tag - 0xc4)).slice();
      case 0xc7:
      case 0xc8:
      case 0xc9:
        return this.skip(this.length(tag - 0xc7) + 1);
      case 0xca:
        return this.number("Float32", 4);
      case 0xcb:
        return this.number("Float64", 8);
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.length(tag - 0xcc);
      case 0xcf:
        return Number(this.number("BigUint64", 8));
      case 0xd0:
        return this.number("Int8", 1);
      case 0xd1:
        return this.number("Int16", 2);
      case 0xd2:
        return this.number("Int32", 4);
      case 0xd3:
        return Number(this.number("BigInt64", 8));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.skip(2 ** (tag - 0xd4) + 1);
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.text(this.length(tag - 0xd9));
      case 0xdc:
      case 0xdd:
        return this.array(this.length(tag - 0xdc + 1));
      case 0xde:
      case 0xdf:
        return this.map(this.length(tag - 0xde + 1));
      default:
        throw new TypeError(`not MessagePack: there is a byte ${tag}`);
    }
  }

  number(kind, size) {
    const value = this.view[`get${kind}`](this.at);
    this.at += size;
    return value;
  }

  /** An unsigned number of 1, 2 or 4 bytes. */
  length(power) {
    return this.number(["Uint8", "Uint16", "Uint32"][power], 2 ** power);
  }

  take(size) {
    if (this.at + size > this.bytes.length) throw new RangeError("the message is cut off");
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  skip(size) {
    this.take(size);
    return null;
  }

  text(size) {
    return new TextDecoder().decode(this.take(size));
  }

  array(size) {
    return Array.from({ length: size }, () => this.read());
  }

  map(size) {
    const entries = Array.from({ length: size }, () => [this.read(), this.read()]);
    return Object.fromEntries(entries);
  }
}
