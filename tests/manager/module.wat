;; A module with a memory of its own: fills it, sums it, grows it. `wat2wasm module.wat` of wabt makes module.wasm.
(module
  (memory (export "memory") 1 3)
  (data (i32.const 16) "hello")

  ;; writes n bytes 0, 1, 2, … from `at` on
  (func (export "fill") (param $at i32) (param $n i32)
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (i32.store8 (i32.add (local.get $at) (local.get $i)) (local.get $i))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next))))

  ;; the sum of n bytes from `at` on
  (func (export "sum") (param $at i32) (param $n i32) (result i64)
    (local $i i32)
    (local $s i64)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $s (i64.add (local.get $s)
          (i64.load8_u (i32.add (local.get $at) (local.get $i)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $s))

  (func (export "store") (param $at i32) (param $value i64)
    (i64.store (local.get $at) (local.get $value)))
  (func (export "load") (param $at i32) (result i64)
    (i64.load (local.get $at)))
  (func (export "grow") (param $n i32) (result i32)
    (memory.grow (local.get $n)))
  (func (export "size") (result i32)
    (memory.size)))
