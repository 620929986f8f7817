/* crc32c.ts - CRC-32C (Castagnoli), the checksum that `done` carries over a whole answer's UTF-8 bytes.
 *
 * The running value is the finished checksum of all bytes so far; feeding more bytes continues it, so a stream never hashes its
 * text twice. */

const POLYNOMIAL = 0x82f63b78; // reflected 0x1EDC6F41

const table = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    table[byte] = value;
}

export function crc32c(bytes: Uint8Array, before = 0): number {
    let crc = ~before;
    for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ table[(crc ^ bytes[i]!) & 255]!;
    return ~crc >>> 0;
}

export function crcText(crc: number): string {
    return crc.toString(16).padStart(8, '0');
}
