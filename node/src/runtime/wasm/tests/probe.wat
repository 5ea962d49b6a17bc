;; A service that does, by the first letter of its request, what the runtime's tests need.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))

  (memory (export "memory") 2 64)
  (memory $second 1)
  (global $count (mut i64) (i64.const 0))
  (global $vector (mut v128) (v128.const i64x2 1 2))
  (global $float (mut f64) (f64.const 1))

  ;; 256: the response's head; 275: its body, 64 bytes. 512: an iovec and its text. 4096: the request.
  (data (i32.const 256) "HTTP/1.1 200 OK\0d\0a\0d\0a")
  (data (i32.const 512) "\08\02\00\00\06\00\00\00hello\0a")
  ;; Zeroed by the first count: a restore must not bring it back.
  (data (i32.const 70000) "initial data")

  (func (export "_initialize")
    ;; Runs once in a life: a second run would count again.
    (global.set $count (i64.add (global.get $count) (i64.const 100))))

  (func (export "wayfare_buffer") (param i32) (result i32) (i32.const 4096))

  (func (export "wayfare_handle") (param $len i32) (result i64)
    (local $letter i32)
    (local.set $letter (i32.load8_u (i32.const 4096)))

    ;; n: counts in a global, in both memories, and changes the vector.
    (if (i32.eq (local.get $letter) (i32.const 110)) (then (call $count_all)))
    ;; t: as n, then traps.
    (if (i32.eq (local.get $letter) (i32.const 116)) (then (call $count_all) (unreachable)))
    ;; l: as n, then loops for ever.
    (if (i32.eq (local.get $letter) (i32.const 108)) (then (call $count_all) (loop $again (br $again))))
    ;; g: grows both memories by a page and writes to what is new. G: the same, then traps.
    (if (i32.or (i32.eq (local.get $letter) (i32.const 103)) (i32.eq (local.get $letter) (i32.const 71))) (then
      (call $count_all)
      (i32.store (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)) (i32.const 7))
      (i32.store $second (i32.mul (memory.grow $second (i32.const 1)) (i32.const 65536)) (i32.const 8))
      (if (i32.eq (local.get $letter) (i32.const 71)) (then (unreachable)))))
    ;; m: asks for more memory than any limit, traps if it is refused. M: says what the answer was.
    (if (i32.eq (local.get $letter) (i32.const 109)) (then
      (if (i32.eq (memory.grow $second (i32.const 60000)) (i32.const -1)) (then (unreachable)))))
    (if (i32.eq (local.get $letter) (i32.const 77)) (then
      (i32.store (i32.const 275) (memory.grow $second (i32.const 60000)))))
    ;; c: both clocks and eight random bytes.
    (if (i32.eq (local.get $letter) (i32.const 99)) (then (call $outside)))
    ;; r: reads clocks for ever.
    (if (i32.eq (local.get $letter) (i32.const 114)) (then (loop $again (call $outside) (br $again))))
    ;; x: exits. w: writes a line.
    (if (i32.eq (local.get $letter) (i32.const 120)) (then (call $count_all) (call $exit (i32.const 3))))
    (if (i32.eq (local.get $letter) (i32.const 119)) (then
      (drop (call $write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 600)))))
    ;; e: the environment.
    (if (i32.eq (local.get $letter) (i32.const 101)) (then
      (drop (call $environ_sizes (i32.const 275) (i32.const 279)))
      (drop (call $environ (i32.const 283) (i32.const 291)))))
    ;; b, o, s: responses outside of the memory, too long, and not HTTP.
    (if (i32.eq (local.get $letter) (i32.const 98)) (then (return (i64.const 0x7fffffff_00000010))))
    (if (i32.eq (local.get $letter) (i32.const 111)) (then (return (i64.const 0x00000100_00010000))))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (return (i64.const 0x00000000_00000010))))

    (i64.store (i32.const 331) (global.get $count))
    ;; Pointer 256, length 19 + 64.
    (i64.const 0x00000100_00000053))

  (func $count_all
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (global.set $vector (i64x2.add (global.get $vector) (v128.const i64x2 3 4)))
    (global.set $float (f64.mul (global.get $float) (f64.const 1.5)))
    (i64.store (i32.const 8192) (i64.add (i64.load (i32.const 8192)) (i64.const 1)))
    (i64.store $second (i32.const 40000) (i64.add (i64.load $second (i32.const 40000)) (i64.const 1)))
    (memory.fill (i32.const 70000) (i32.const 0) (i32.const 12)))

  (func $outside
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 275)))
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 283)))
    (drop (call $random (i32.const 291) (i32.const 8)))))
